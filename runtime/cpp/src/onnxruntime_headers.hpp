// ONNX Runtime's C++ interface, to be used after `load_onnxruntime`.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT
