# What libcamscribe is built of. Each is looked for as its own project offers it, then by hand, since distributions,
# JetPack and pip install these libraries without their CMake files.
#
#   camscribe::dependencies         headers of ONNX Runtime and nlohmann/json, OpenCV's core and imgproc, libcrypto
#   CAMSCRIBE_ONNXRUNTIME_LIBRARY   file of ONNX Runtime's library, where one was found; loaded, not linked
#   camscribe::tensorrt             TensorRT and the CUDA runtime, where they are found and wanted

add_library(camscribe_dependencies INTERFACE)
add_library(camscribe::dependencies ALIAS camscribe_dependencies)
find_package(Threads REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto) # sha256
target_link_libraries(camscribe_dependencies INTERFACE OpenSSL::Crypto Threads::Threads ${CMAKE_DL_LIBS})

# --- nlohmann/json: headers.
find_package(nlohmann_json 3.7 QUIET)
if(NOT TARGET nlohmann_json::nlohmann_json)
  find_path(CAMSCRIBE_JSON_INCLUDE_DIR nlohmann/json.hpp)
  if(NOT CAMSCRIBE_JSON_INCLUDE_DIR)
    message(FATAL_ERROR "nlohmann/json was not found: apt install nlohmann-json3-dev, or set CAMSCRIBE_JSON_INCLUDE_DIR")
  endif()
  add_library(nlohmann_json::nlohmann_json INTERFACE IMPORTED)
  target_include_directories(nlohmann_json::nlohmann_json INTERFACE "${CAMSCRIBE_JSON_INCLUDE_DIR}")
endif()
target_link_libraries(camscribe_dependencies INTERFACE nlohmann_json::nlohmann_json)

# --- OpenCV: core and imgproc alone. Debian's OpenCVConfig.cmake comes with all of OpenCV and wants it.
find_package(OpenCV QUIET COMPONENTS core imgproc)
if(OpenCV_FOUND)
  target_link_libraries(camscribe_dependencies INTERFACE opencv_core opencv_imgproc)
else()
  find_path(CAMSCRIBE_OPENCV_INCLUDE_DIR opencv2/imgproc.hpp PATH_SUFFIXES opencv4)
  find_library(CAMSCRIBE_OPENCV_CORE opencv_core)
  find_library(CAMSCRIBE_OPENCV_IMGPROC opencv_imgproc)
  if(NOT CAMSCRIBE_OPENCV_INCLUDE_DIR OR NOT CAMSCRIBE_OPENCV_CORE OR NOT CAMSCRIBE_OPENCV_IMGPROC)
    message(FATAL_ERROR "OpenCV was not found: apt install libopencv-core-dev libopencv-imgproc-dev, or set OpenCV_DIR")
  endif()
  target_include_directories(camscribe_dependencies SYSTEM INTERFACE "${CAMSCRIBE_OPENCV_INCLUDE_DIR}")
  target_link_libraries(camscribe_dependencies INTERFACE "${CAMSCRIBE_OPENCV_IMGPROC}" "${CAMSCRIBE_OPENCV_CORE}")
endif()

# --- ONNX Runtime: headers now, the library when the program runs (src/onnxruntime_library.hpp says why).
set(ONNXRUNTIME_ROOT "" CACHE PATH "Folder of ONNX Runtime: a release from its project, or one with include/ and lib/")
find_path(CAMSCRIBE_ONNXRUNTIME_INCLUDE_DIR onnxruntime_cxx_api.h
  HINTS "${ONNXRUNTIME_ROOT}" ENV ONNXRUNTIME_ROOT
  PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session onnxruntime onnxruntime/core/session)
if(NOT CAMSCRIBE_ONNXRUNTIME_INCLUDE_DIR)
  message(FATAL_ERROR
    "the headers of ONNX Runtime were not found: set ONNXRUNTIME_ROOT to the folder of a release, or see docs/cpp.md")
endif()
find_library(CAMSCRIBE_ONNXRUNTIME_LIBRARY NAMES onnxruntime libonnxruntime.so.1 libonnxruntime.so
  HINTS "${ONNXRUNTIME_ROOT}" ENV ONNXRUNTIME_ROOT PATH_SUFFIXES lib)
target_include_directories(camscribe_dependencies SYSTEM INTERFACE "${CAMSCRIBE_ONNXRUNTIME_INCLUDE_DIR}")
if(CAMSCRIBE_ONNXRUNTIME_LIBRARY)
  message(STATUS "camscribe: ONNX Runtime is loaded from ${CAMSCRIBE_ONNXRUNTIME_LIBRARY}")
else()
  message(STATUS "camscribe: ONNX Runtime's library was not found here; programs name it in CAMSCRIBE_ONNXRUNTIME")
endif()

# --- TensorRT and the CUDA runtime.
if(NOT CAMSCRIBE_TENSORRT STREQUAL "OFF")
  set(TENSORRT_ROOT "" CACHE PATH "Folder of TensorRT, with include/ and lib/")
  find_path(CAMSCRIBE_TENSORRT_INCLUDE_DIR NvInfer.h HINTS "${TENSORRT_ROOT}" ENV TENSORRT_ROOT
    PATH_SUFFIXES include include/aarch64-linux-gnu include/x86_64-linux-gnu)
  find_library(CAMSCRIBE_NVINFER nvinfer HINTS "${TENSORRT_ROOT}" ENV TENSORRT_ROOT PATH_SUFFIXES lib)
  find_package(CUDAToolkit QUIET)
  if(TARGET CUDA::cudart)
    set(cudart CUDA::cudart)
  else()
    set(cuda_roots "${CUDAToolkit_ROOT}" /usr/local/cuda /usr/local/cuda/targets/aarch64-linux)
    find_path(CAMSCRIBE_CUDA_INCLUDE_DIR cuda_runtime_api.h HINTS ${cuda_roots} PATH_SUFFIXES include)
    find_library(CAMSCRIBE_CUDART cudart HINTS ${cuda_roots} PATH_SUFFIXES lib64 lib)
    if(CAMSCRIBE_CUDA_INCLUDE_DIR AND CAMSCRIBE_CUDART)
      set(cudart "${CAMSCRIBE_CUDART}")
    endif()
  endif()
  if(CAMSCRIBE_TENSORRT_INCLUDE_DIR AND CAMSCRIBE_NVINFER AND cudart)
    add_library(camscribe_nvidia INTERFACE)
    add_library(camscribe::tensorrt ALIAS camscribe_nvidia)
    target_include_directories(camscribe_nvidia SYSTEM INTERFACE
      "${CAMSCRIBE_TENSORRT_INCLUDE_DIR}" ${CAMSCRIBE_CUDA_INCLUDE_DIR})
    target_link_libraries(camscribe_nvidia INTERFACE "${CAMSCRIBE_NVINFER}" "${cudart}")
    message(STATUS "camscribe: with TensorRT, ${CAMSCRIBE_NVINFER}")
  elseif(CAMSCRIBE_TENSORRT STREQUAL "AUTO")
    message(STATUS "camscribe: without TensorRT, which was not found")
  else()
    message(FATAL_ERROR "TensorRT or the CUDA runtime was not found: set TENSORRT_ROOT and CUDAToolkit_ROOT to their "
      "folders, or CAMSCRIBE_TENSORRT=OFF")
  endif()
endif()
