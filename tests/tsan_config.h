// Included before every C++ file of a ThreadSanitizer build.
//
// std::timed_mutex calls pthread_mutex_clocklock where glibc has it, which the TSan of g++ 12 does not
// intercept: it would miss that the lock is held. Without it libstdc++ calls pthread_mutex_timedlock, which
// TSan knows.
#include <bits/c++config.h>
#undef _GLIBCXX_USE_PTHREAD_MUTEX_CLOCKLOCK
