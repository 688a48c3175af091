// TensorRT's library of plugins, as far as libcamscribe calls it.
#include <cstdlib>

extern "C" __attribute__((visibility("default"))) bool initLibNvInferPlugins(void* logger, const char* name_space) {
  return logger != nullptr && *name_space == '\0' && std::getenv("CAMSCRIBE_EMULATED_NO_PLUGINS") == nullptr;
}
