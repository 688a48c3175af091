// The errors a caller can meet, as in runtime/errors.py. Messages are one line: what is wrong, where, what was expected.
#pragma once

#include <camscribe/camscribe.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace camscribe::core {

class Error : public std::runtime_error {
 public:
  Error(camscribe_status status, const std::string& message) : std::runtime_error(message), status(status) {}

  const camscribe_status status;
};

// The kinds of camscribe.h, each as a type to throw and catch.
template <camscribe_status Status>
class ErrorOf : public Error {
 public:
  explicit ErrorOf(const std::string& message) : Error(Status, message) {}
};

using ArgumentError = ErrorOf<CAMSCRIBE_ARGUMENT_ERROR>;
using BundleError = ErrorOf<CAMSCRIBE_BUNDLE_ERROR>;
using EngineError = ErrorOf<CAMSCRIBE_ENGINE_ERROR>;
using NoEngineError = ErrorOf<CAMSCRIBE_NO_ENGINE_ERROR>;
using OptionError = ErrorOf<CAMSCRIBE_OPTION_ERROR>;
using SourceError = ErrorOf<CAMSCRIBE_SOURCE_ERROR>;
using MemoryError = ErrorOf<CAMSCRIBE_MEMORY_ERROR>;

// Everything wrong with a file, one entry each.
using Problems = std::vector<std::string>;

std::string join(const std::vector<std::string>& parts, std::string_view between);

// What another library said, as one line of at most 300 bytes.
std::string one_line(std::string_view text);

}  // namespace camscribe::core
