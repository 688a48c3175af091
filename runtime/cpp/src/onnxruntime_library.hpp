// ONNX Runtime's library, loaded when it is first needed.
//
// It is not linked: its symbols carry the version of the very release, so a program linked with 1.21.0 would not start with
// 1.21.1. Its table of functions is compatible from release to release, and is asked for by number.
#pragma once

#include <string>

namespace Ort {
struct Env;
}

namespace camscribe::core {

// Loads ONNX Runtime, once a process, and prepares its C++ interface, which "onnxruntime_headers.hpp" has.
//
// file: the library; empty for $CAMSCRIBE_ONNXRUNTIME, else the one that CMake found, else the one that the loader finds.
// Returns its version. Throws EngineError where it is missing or older than the headers that this was compiled with.
const std::string& load_onnxruntime(const std::string& file);

// The one environment of the process. Only after `load_onnxruntime`.
Ort::Env& onnxruntime_environment();

}  // namespace camscribe::core
