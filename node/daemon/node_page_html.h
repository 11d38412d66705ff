#pragma once

#include <string_view>

namespace sluice {

// node_page.html, as the build has put it in.
extern const std::string_view kNodePageHtml;

}  // namespace sluice
