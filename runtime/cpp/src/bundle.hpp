// Bundles on disk: one folder that is all the runtime needs, read with every check. See runtime/bundle.py.
#pragma once

#include <filesystem>
#include <string>

#include "manifest.hpp"
#include "vocabulary.hpp"

namespace camscribe::core {

// A captioner's folder. Its vocabulary and the sizes of all files are checked; the graphs are by `verify`.
class Bundle {
 public:
  // Throws BundleError: one line that lists everything wrong.
  explicit Bundle(const std::filesystem::path& path);

  // Hashes the files that the graphs of a precision consist of. Throws BundleError if one is altered.
  void verify(const std::string& precision) const;

  const std::filesystem::path path;
  const Manifest manifest;
  const Vocabulary vocabulary;
};

}  // namespace camscribe::core
