#include "tensorrt_executor.hpp"

namespace camscribe::core {

std::unique_ptr<Executor> open_tensorrt(const Bundle& /*bundle*/, const std::string& /*precision*/) {
  throw EngineError("this libcamscribe was compiled without TensorRT (cmake -DCAMSCRIBE_TENSORRT=ON where it is installed)");
}

}  // namespace camscribe::core
