#include "bundle.hpp"

#include <algorithm>
#include <system_error>

#include "files.hpp"

namespace camscribe::core {

namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kManifestLimit = 64 << 20;

[[noreturn]] void refuse(const fs::path& folder, const Problems& problems) {
  throw BundleError(folder.string() + ": " + join(problems, "; ") + ": fetch or export the bundle again");
}

Manifest manifest_in(const fs::path& folder) {
  const fs::path path = folder / "bundle.json";
  std::error_code code;
  if (!fs::exists(path, code)) {
    const bool is_folder = fs::is_directory(folder, code);
    throw BundleError(folder.string() +
                      (is_folder ? ": is not a bundle: it has no bundle.json" : ": no such bundle folder") +
                      "; expected a folder written by camscribe export");
  }
  std::string text;
  try {
    if (fs::file_size(path) > kManifestLimit) {
      throw BundleError(path.string() + ": is larger than " + std::to_string(kManifestLimit) +
                        " bytes; expected a bundle's manifest");
    }
    text = read_file(path);
  } catch (const std::system_error& error) {
    throw BundleError(path.string() + ": cannot be read (" + error.code().message() + ")");
  }
  try {
    return read_manifest(text);
  } catch (const BundleError& error) {
    throw BundleError(folder.string() + ": " + error.what());
  }
}

// What is wrong with a file; empty where nothing is.
std::string problem_of(const fs::path& folder, const std::string& name, const FileEntry& entry, bool hashed) {
  const fs::path path = folder / name;
  try {
    if (!fs::exists(path)) return name + " is missing";
    if (!fs::is_regular_file(path)) return name + " is not a file";
    const std::uintmax_t size = fs::file_size(path);
    if (size != entry.bytes) {
      return name + " has " + std::to_string(size) + " bytes; expected " + std::to_string(entry.bytes);
    }
    if (hashed && sha256_of_file(path) != entry.sha256) return name + " is altered: its sha256 differs";
  } catch (const std::system_error& error) {  // those of std::filesystem too
    return name + " cannot be read (" + error.code().message() + ")";
  }
  return "";
}

Vocabulary vocabulary_in(const fs::path& folder, const Manifest& manifest) {
  Problems problems;
  for (const auto& [name, entry] : manifest.files) {
    problems.push_back(problem_of(folder, name, entry, name == "vocab.txt"));
  }
  problems.erase(std::remove(problems.begin(), problems.end(), ""), problems.end());
  if (!problems.empty()) refuse(folder, problems);
  try {
    return Vocabulary(read_file(folder / "vocab.txt"), manifest);
  } catch (const std::system_error& error) {
    refuse(folder, {"vocab.txt cannot be read (" + error.code().message() + ")"});
  } catch (const BundleError& error) {
    refuse(folder, {error.what()});
  }
}

}  // namespace

Bundle::Bundle(const fs::path& path)
    : path(path), manifest(manifest_in(path)), vocabulary(vocabulary_in(path, manifest)) {}

void Bundle::verify(const std::string& precision) const {
  Problems problems;
  for (const auto& name : manifest.files_of(precision)) {
    const std::string problem = problem_of(path, name, manifest.files.at(name), true);
    if (!problem.empty()) problems.push_back(problem);
  }
  if (!problems.empty()) refuse(path, problems);
}

}  // namespace camscribe::core
