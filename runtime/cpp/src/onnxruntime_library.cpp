#include "onnxruntime_library.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <vector>

#include "errors.hpp"
#include "onnxruntime_headers.hpp"

#ifndef CAMSCRIBE_ONNXRUNTIME_LIBRARY
#define CAMSCRIBE_ONNXRUNTIME_LIBRARY ""
#endif

namespace camscribe::core {

namespace {

constexpr const char* kRemedy =
    "install ONNX Runtime, or name its library in CAMSCRIBE_ONNXRUNTIME "
    "(the Python package has it as onnxruntime/capi/libonnxruntime.so.*)";

struct Loaded {
  std::string file;
  std::string version;
};

std::vector<std::string> candidates(const std::string& file) {
  if (!file.empty()) return {file};
  const char* named = std::getenv("CAMSCRIBE_ONNXRUNTIME");
  if (named != nullptr && *named != '\0') return {named};
  std::vector<std::string> files;
  const std::string found = CAMSCRIBE_ONNXRUNTIME_LIBRARY;
  std::error_code code;
  if (!found.empty() && std::filesystem::exists(found, code)) files.push_back(found);
  files.insert(files.end(), {"libonnxruntime.so.1", "libonnxruntime.so", "libonnxruntime.dylib"});
  return files;
}

Loaded load(const std::string& file) {
  std::string problem;
  for (const auto& name : candidates(file)) {
    void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      const char* said = dlerror();
      if (problem.empty()) problem = one_line(said != nullptr ? said : name);
      continue;
    }
    using GetBase = const OrtApiBase*(ORT_API_CALL*)();
    const auto get_base = reinterpret_cast<GetBase>(dlsym(library, "OrtGetApiBase"));
    if (get_base == nullptr) throw EngineError(name + ": is not ONNX Runtime's library; " + kRemedy);
    const OrtApiBase* base = get_base();
    const std::string version = base->GetVersionString();
    const OrtApi* api = base->GetApi(ORT_API_VERSION);
    if (api == nullptr) {
      throw EngineError(name + ": ONNX Runtime " + version + " is too old; this libcamscribe was compiled with the " +
                        "headers of 1." + std::to_string(ORT_API_VERSION) + ": use that version or a newer one, or " +
                        "compile libcamscribe with the older headers");
    }
    Ort::InitApi(api);
    return {name, version};
  }
  throw EngineError("ONNX Runtime cannot be loaded (" + problem + "): " + kRemedy);
}

}  // namespace

const std::string& load_onnxruntime(const std::string& file) {
  // Never unloaded: its threads and ours may outlive everything else.
  static std::mutex mutex;
  static const Loaded* loaded = nullptr;
  const std::lock_guard lock(mutex);
  if (loaded == nullptr) loaded = new Loaded(load(file));
  if (!file.empty() && file != loaded->file) {
    throw OptionError("ONNX Runtime is already loaded from " + loaded->file + ", and a process has one; " + file +
                      " cannot be taken too");
  }
  return loaded->version;
}

Ort::Env& onnxruntime_environment() {
  // Kept until the process ends, as the order in which libraries end is nobody's to choose.
  static auto* const environment = new Ort::Env(ORT_LOGGING_LEVEL_FATAL, "camscribe");
  return *environment;
}

}  // namespace camscribe::core
