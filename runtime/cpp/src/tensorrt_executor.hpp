// TensorRT as an executor, on the engines that `camscribe build` made; see runtime/tensorrt/executor.py.
#pragma once

#include <memory>
#include <string>

#include "executor.hpp"

namespace camscribe::core {

// Opens the engines for one image and the bundle's number of beams. Those for other numbers are opened when they are needed.
// Throws NoEngineError where only they are missing; EngineError where this library was compiled without TensorRT, there is
// no GPU, or an engine does not load.
std::unique_ptr<Executor> open_tensorrt(const Bundle& bundle, const std::string& precision);

}  // namespace camscribe::core
