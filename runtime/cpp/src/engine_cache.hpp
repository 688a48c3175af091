// The engines that `camscribe build` made on this device; see runtime/tensorrt/engine_cache.py and sealed_file.py.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "bundle.hpp"

namespace camscribe::core {

// Everything an engine depends on.
struct EngineKey {
  std::string onnx_sha256;         // of the graph and its weights
  std::string tensorrt;            // 10.3.0
  std::string gpu;                 // its name
  std::string compute_capability;  // 8.7
  std::string precision;
  std::string graph;  // encoder or decoder
  int images = 1;
  int beams = 0;  // 0 for the encoder, which knows none
  int recipe = 1;
};

// Of a graph's file and of the files that its weights lie in, as the manifest records them.
std::string graph_sha256(const Manifest& manifest, const GraphSpec& graph);

// Where the engines of a bundle lie: beside it, else in the user's cache folder.
std::vector<std::filesystem::path> engine_folders(const std::filesystem::path& bundle);

// An engine, as TensorRT serialized it, checked: TensorRT may crash on an altered one.
// Throws NoEngineError where there is none, which says what is there instead and the command that builds it.
std::string read_engine(const std::filesystem::path& bundle, const EngineKey& key);

}  // namespace camscribe::core
