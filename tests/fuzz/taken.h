#pragma once

#include <string>
#include <vector>

namespace sluice::fuzz {

// One parser of a target, so that the replay can tell whether it took anything at all: a corpus that is
// refused as a whole shows nothing of what is done with good input. A static object of the target; one
// thread.
class Parser {
 public:
  explicit Parser(const char* name) : name_(name) { All().push_back(this); }
  Parser(const Parser&) = delete;
  Parser& operator=(const Parser&) = delete;

  void Took() { ++taken_; }

  const char* name() const { return name_; }
  int taken() const { return taken_; }

  // Those of the target, for the replay.
  static std::vector<Parser*>& All() {
    static std::vector<Parser*> all;
    return all;
  }

 private:
  const char* const name_;
  int taken_ = 0;
};

// Good inputs in a form that carries a version: made by the encoder of today, since a file would be refused
// as soon as the version changes. A target that has none does not define it.
std::vector<std::string> GoodInputs() __attribute__((weak));

}  // namespace sluice::fuzz
