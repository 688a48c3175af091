// The manifest of a bundle, bundle.json, as runtime/manifest.py has it: every field is required, an unknown one is refused.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "errors.hpp"
#include "pixels.hpp"
#include "search.hpp"

namespace camscribe::core {

constexpr const char* kBoxes = "boxes";  // the encoder's output that places the positions of the attention
constexpr int kSchema = 1;  // version of the manifest that this release reads

// Numbers for the free sizes of tensors: B, K, P, V.
using Sizes = std::map<std::string, std::int64_t>;

// One input or output of a graph.
struct TensorSpec {
  // A number, or the name of a size that is free: B images, K beams, P positions, V words.
  struct Size {
    Size(std::int64_t number) : number(number) {}           // NOLINT(google-explicit-constructor)
    Size(std::string name) : number(-1), name(std::move(name)) {}  // NOLINT(google-explicit-constructor)
    Size(const char* name) : Size(std::string(name)) {}     // NOLINT(google-explicit-constructor)

    std::int64_t number;
    std::string name;  // empty for a number
  };

  std::string name;
  std::string dtype;  // float32, float16, int32, uint8
  std::vector<Size> shape;

  std::string text() const;  // state.h float32[B,K,512]
  // The shape with its free sizes filled in. Throws EngineError where nobody knows one.
  std::vector<std::int64_t> fixed_shape(const Sizes& sizes) const;
};

using TensorSpecs = std::vector<TensorSpec>;

// One ONNX graph.
struct GraphSpec {
  std::string file;
  std::vector<std::string> external;  // files its weights lie in, where they do not lie in the graph
  TensorSpecs inputs;
  TensorSpecs outputs;

  // Whether it is an encoder that says where each position of the attention lies; see BOXES in runtime/manifest.py.
  bool has_boxes() const;
  // What the graph's real tensors have otherwise than this says. A free size matches any.
  Problems differences(const TensorSpecs& real_inputs, const TensorSpecs& real_outputs) const;
};

// The two graphs of one precision.
struct GraphPair {
  GraphSpec encoder;
  GraphSpec decoder;
};

// Ids of the tokens that are no words.
struct SpecialTokens {
  std::int32_t pad = 0;
  std::int32_t start = 0;
  std::int32_t end = 0;
  std::int32_t unknown = 0;
};

// One file of the bundle.
struct FileEntry {
  std::uint64_t bytes = 0;
  std::string sha256;
};

// bundle.json, as far as it is needed to caption.
struct Manifest {
  std::string name;
  std::int32_t vocabulary_size = 0;
  SpecialTokens special_tokens;
  PixelSpec pixels;
  int rows = 0;     // of the grid of the attention
  int columns = 0;
  SearchOptions search;
  std::map<std::string, GraphPair> precisions;
  std::string cpu_precision;
  std::map<std::string, FileEntry> files;

  // Free sizes of one image searched with so many beams.
  Sizes sizes(int beams) const;
  // Throws OptionError if there is no such precision.
  const GraphPair& pair(const std::string& precision) const;
  // Names of the files that the graphs of a precision consist of.
  std::set<std::string> files_of(const std::string& precision) const;
};

// Reads bundle.json. Throws BundleError: one line that lists everything wrong.
Manifest read_manifest(const std::string& text);

}  // namespace camscribe::core
