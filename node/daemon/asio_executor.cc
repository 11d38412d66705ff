#include "node/daemon/asio_executor.h"

#include <pthread.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <thread>
#include <utility>
#include <vector>

namespace sluice {
namespace {

// asio of Boost 1.74 copies handlers in places; a shared holder lets a move-only task through.
struct Runnable {
  std::shared_ptr<Task> task;
  void operator()() { std::move (*task)(); }
};

}  // namespace

class AsioExecutor::Impl {
 public:
  Impl(const char* name, int thread_count) : context(thread_count), work(context.get_executor()) {
    for (int i = 0; i < thread_count; ++i) {
      threads.emplace_back([this] { context.run(); });
      pthread_setname_np(threads.back().native_handle(), name);
    }
  }

  void Stop() {
    work.reset();
    context.stop();
    for (std::thread& thread : std::exchange(threads, {})) thread.join();
  }

  boost::asio::io_context context;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work;
  std::vector<std::thread> threads;
};

AsioExecutor::AsioExecutor(const char* name, int thread_count)
    : impl_(std::make_unique<Impl>(name, thread_count)) {}

AsioExecutor::~AsioExecutor() {
  Stop();
}

void AsioExecutor::Post(Task task) {
  boost::asio::post(impl_->context, Runnable{std::make_shared<Task>(std::move(task))});
}

void AsioExecutor::PostAt(Instant when, Task task) {
  auto timer = std::make_shared<boost::asio::steady_timer>(impl_->context, when);
  timer->async_wait([timer, run = Runnable{std::make_shared<Task>(std::move(task))}](
                        const boost::system::error_code& error) mutable {
    if (!error) run();
  });
}

void AsioExecutor::Stop() {
  impl_->Stop();
}

}  // namespace sluice
