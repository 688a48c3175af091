// Where every tensor of a search lies: plain arithmetic, no device, one home for all executors.
//
// A step's small outputs lie in row t + 1 of the trace, which is the next step's input; only the states ping-pong. So the
// addresses of all steps are known beforehand, a step allocates nothing, and whole intervals of steps can be recorded.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "manifest.hpp"
#include "search.hpp"

namespace camscribe::core {

// A tensor's place in memory.
struct Place {
  std::uint8_t* address;
  std::size_t bytes;
};

// Places of a graph's tensors, by name.
using Places = std::map<std::string, Place>;

// Begin and end in a block of memory, in bytes.
struct Piece {
  std::size_t begin;
  std::size_t end;
};

// A copy from the encoder's output to a state of one beam.
struct Copy {
  std::uint8_t* target;
  const std::uint8_t* source;
  std::size_t bytes;
};

// The memory of a search of one image with K beams in at most T steps. It is two blocks: `shared` is what the host and the
// device both see (inputs, then what never changes, then the trace, then the boxes and the attention on them, so that each
// is one copy), `private` is for the device alone. On a CPU all is the host's.
class Plan {
 public:
  // Throws EngineError where a tensor has a size that nobody knows, MemoryError where one is far too large, BundleError
  // where the state that the encoder makes is not that of a beam.
  Plan(const Manifest& manifest, const GraphPair& pair, int beams, int steps);

  int steps() const { return steps_; }
  std::size_t shared_bytes() const { return shared_bytes_; }
  std::size_t private_bytes() const { return private_bytes_; }

  // Writes what never changes into the shared block, which is all zero.
  void prepare(std::uint8_t* shared) const;
  // Where the inputs of a search lie in the shared block.
  std::uint8_t* image(std::uint8_t* shared) const { return shared + image_.offset; }
  std::int32_t* min_words(std::uint8_t* shared) const;
  float* bias(std::uint8_t* shared) const;

  Places encoder(std::uint8_t* private_block, std::uint8_t* shared) const;
  Places decoder(std::uint8_t* private_block, std::uint8_t* shared, int step) const;
  // What gives the states that the encoder made to all beams.
  std::vector<Copy> spread(std::uint8_t* private_block) const;

  // Parts of the shared block: the inputs; what steps `first` to `last - 1` selected; the attention of the first
  // steps, with the boxes it is on.
  Piece inputs() const { return {min_words_.offset, image_.offset + image_.bytes}; }
  Piece rows(int first, int last) const;
  Piece attention(int steps) const;
  // The first steps of the search.
  Trace trace(const std::uint8_t* shared, int steps) const;

 private:
  struct Span {
    std::size_t offset;
    std::size_t bytes;
  };
  class Block;

  std::uint8_t* row(std::uint8_t* shared, int index) const { return shared + rows_.offset + index * row_bytes_; }

  int beams_;
  int steps_;
  int positions_;
  std::int32_t start_;
  std::size_t column_bytes_;     // of one column of one row of the trace
  std::size_t row_bytes_;        // of all its columns
  std::size_t attention_bytes_;  // of one step
  std::size_t shared_bytes_;
  std::size_t private_bytes_;
  Span min_words_;
  Span bias_;
  Span image_;
  Span step_numbers_;
  Span rows_;
  Span boxes_;  // empty where the encoder finds none
  Span attention_;
  std::map<std::string, Span> encoded_;
  std::array<std::map<std::string, Span>, 2> states_;
  Span log_prob_;  // nobody reads it, but an engine writes every output it has
};

// Bytes of a tensor of fixed shape.
std::size_t bytes_of(const TensorSpec& spec, const Sizes& sizes);

// Where a tensor lies. Throws BundleError where it has another size than its place, as a manifest may say.
std::uint8_t* address_of(const Places& places, const TensorSpec& spec, const Sizes& sizes);

}  // namespace camscribe::core
