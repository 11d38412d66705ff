#pragma once

#include <string>
#include <string_view>

namespace sluice::p2p {

// A JSON document as Go's encoding/json reads it: in its strings a byte that is no UTF-8 and half of a
// surrogate pair ("\ud800") each become U+FFFD. All else, well-formed or not, stays as it is.
std::string WithReplacedText(std::string_view json);

}  // namespace sluice::p2p
