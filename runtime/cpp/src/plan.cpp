#include "plan.hpp"

#include <algorithm>

#include "interface.hpp"

namespace camscribe::core {

namespace {

// Columns of the trace; the first three are inputs of the next step, and all are outputs (some as next_*).
constexpr std::array<const char*, 5> kColumns{"token", "parent", "score", "ended_score", "ended_parent"};
enum Column { kToken, kParent, kScore, kEndedScore, kEndedParent };

constexpr std::size_t kAlignment = 256;  // TensorRT wants the address of every tensor to be a multiple of this
constexpr std::size_t kStepBytes = kAlignment;  // one int32 for each step, each aligned

std::size_t aligned(std::size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

// A block of memory being laid out.
class Plan::Block {
 public:
  Span add(std::size_t bytes) {
    const Span span{aligned(bytes_), bytes};
    bytes_ = span.offset + bytes;
    return span;
  }

  std::size_t bytes() const { return aligned(bytes_); }

 private:
  std::size_t bytes_ = 0;
};

std::size_t bytes_of(const TensorSpec& spec, const Sizes& sizes) {
  double numbers = 1;
  for (const std::int64_t size : spec.fixed_shape(sizes)) numbers *= double(size);
  if (numbers > double(1LL << 34)) throw MemoryError("tensor " + spec.text() + " does not fit into memory");
  const std::size_t width = spec.dtype == "uint8" ? 1 : spec.dtype == "float16" ? 2 : 4;
  return std::size_t(numbers) * width;
}

std::uint8_t* address_of(const Places& places, const TensorSpec& spec, const Sizes& sizes) {
  const Place& place = places.at(spec.name);
  if (bytes_of(spec, sizes) == place.bytes) return place.address;
  throw BundleError("tensor " + spec.text() + " has " + std::to_string(bytes_of(spec, sizes)) + " bytes; expected " +
                    std::to_string(place.bytes) + ": export the bundle again");
}

Plan::Plan(const Manifest& manifest, const GraphPair& pair, int beams, int steps)
    : beams_(beams), steps_(steps), positions_(manifest.rows * manifest.columns), start_(manifest.special_tokens.start) {
  const Sizes sizes = manifest.sizes(beams);
  column_bytes_ = aligned(std::size_t(beams) * 4);
  row_bytes_ = kColumns.size() * column_bytes_;
  attention_bytes_ = aligned(std::size_t(beams) * positions_ * 4);
  Block shared, private_block;
  min_words_ = shared.add(4);
  bias_ = shared.add(std::size_t(manifest.vocabulary_size) * 4);
  image_ = shared.add(bytes_of(pair.encoder.inputs.at(0), sizes));
  step_numbers_ = shared.add(steps * kStepBytes);
  rows_ = shared.add((steps + 1) * row_bytes_);  // step by step, so that the steps since the last look are one piece
  boxes_ = shared.add(pair.encoder.has_boxes() ? std::size_t(positions_) * 4 * sizeof(float) : 0);
  attention_ = shared.add(steps * attention_bytes_);
  for (const TensorSpec& spec : pair.encoder.outputs) {
    if (spec.name != kBoxes) encoded_[spec.name] = private_block.add(bytes_of(spec, sizes));
  }
  for (auto& states : states_) {
    for (const TensorSpec& spec : with_prefix(pair.decoder.inputs, "state.")) {
      states[spec.name] = private_block.add(bytes_of(spec, sizes));
      if (states[spec.name].bytes != beams * encoded_.at(spec.name).bytes) {
        throw BundleError("tensor " + spec.text() + " is not the encoder's for each beam: export the bundle again");
      }
    }
  }
  log_prob_ = private_block.add(std::size_t(beams) * manifest.vocabulary_size * 4);
  shared_bytes_ = shared.bytes();
  private_bytes_ = private_block.bytes();
}

void Plan::prepare(std::uint8_t* shared) const {
  for (int step = 0; step < steps_; ++step) {
    *reinterpret_cast<std::int32_t*>(shared + step_numbers_.offset + step * kStepBytes) = step;
  }
  auto* token = reinterpret_cast<std::int32_t*>(row(shared, 0) + kToken * column_bytes_);
  auto* parent = reinterpret_cast<std::int32_t*>(row(shared, 0) + kParent * column_bytes_);
  auto* score = reinterpret_cast<float*>(row(shared, 0) + kScore * column_bytes_);
  for (int beam = 0; beam < beams_; ++beam) {
    token[beam] = start_;
    parent[beam] = beam;
    score[beam] = beam == 0 ? 0 : kDead;  // one live beam, the others dead
  }
}

std::int32_t* Plan::min_words(std::uint8_t* shared) const {
  return reinterpret_cast<std::int32_t*>(shared + min_words_.offset);
}

float* Plan::bias(std::uint8_t* shared) const { return reinterpret_cast<float*>(shared + bias_.offset); }

Places Plan::encoder(std::uint8_t* private_block, std::uint8_t* shared) const {
  Places at{{"image", {image(shared), image_.bytes}}};
  for (const auto& [name, span] : encoded_) at[name] = {private_block + span.offset, span.bytes};
  if (boxes_.bytes != 0) at[kBoxes] = {shared + boxes_.offset, boxes_.bytes};
  return at;
}

Places Plan::decoder(std::uint8_t* private_block, std::uint8_t* shared, int step) const {
  Places at;
  for (const auto& [name, span] : encoded_) {
    if (name.compare(0, 7, "memory.") == 0) at[name] = {private_block + span.offset, span.bytes};
  }
  for (const auto& [name, span] : states_[step % 2]) at[name] = {private_block + span.offset, span.bytes};
  for (const auto& [name, span] : states_[(step + 1) % 2]) {
    at["next_" + name] = {private_block + span.offset, span.bytes};
  }
  const std::size_t numbers = std::size_t(beams_) * 4;
  for (std::size_t column = 0; column < kColumns.size(); ++column) {
    const std::string name = kColumns[column];
    const bool fed_back = column <= kScore;
    if (fed_back) at[name] = {row(shared, step) + column * column_bytes_, numbers};
    at[fed_back ? "next_" + name : name] = {row(shared, step + 1) + column * column_bytes_, numbers};
  }
  at["step"] = {shared + step_numbers_.offset + step * kStepBytes, 4};
  at["min_words"] = {shared + min_words_.offset, 4};
  at["bias"] = {shared + bias_.offset, bias_.bytes};
  at["attention"] = {shared + attention_.offset + step * attention_bytes_, numbers * positions_};
  at["log_prob"] = {private_block + log_prob_.offset, log_prob_.bytes};
  return at;
}

std::vector<Copy> Plan::spread(std::uint8_t* private_block) const {
  std::vector<Copy> copies;
  for (const auto& [name, state] : states_[0]) {
    const Span& made = encoded_.at(name);
    for (int beam = 0; beam < beams_; ++beam) {
      copies.push_back({private_block + state.offset + beam * made.bytes, private_block + made.offset, made.bytes});
    }
  }
  return copies;
}

Piece Plan::rows(int first, int last) const {
  return {rows_.offset + (first + 1) * row_bytes_, rows_.offset + (last + 1) * row_bytes_};
}

Piece Plan::attention(int steps) const {
  return {boxes_.bytes != 0 ? boxes_.offset : attention_.offset, attention_.offset + steps * attention_bytes_};
}

Trace Plan::trace(const std::uint8_t* shared, int steps) const {
  const std::uint8_t* first = shared + rows_.offset + row_bytes_;
  const auto integers = [&](Column column) {
    return Rows<std::int32_t>{reinterpret_cast<const std::int32_t*>(first + column * column_bytes_), row_bytes_ / 4};
  };
  const auto numbers = [&](Column column) {
    return Rows<float>{reinterpret_cast<const float*>(first + column * column_bytes_), row_bytes_ / 4};
  };
  Trace trace;
  trace.steps = steps;
  trace.beams = beams_;
  trace.positions = positions_;
  trace.token = integers(kToken);
  trace.parent = integers(kParent);
  trace.score = numbers(kScore);
  trace.ended_score = numbers(kEndedScore);
  trace.ended_parent = integers(kEndedParent);
  trace.attention = {reinterpret_cast<const float*>(shared + attention_.offset), attention_bytes_ / 4};
  if (boxes_.bytes != 0) trace.boxes = reinterpret_cast<const float*>(shared + boxes_.offset);
  return trace;
}

}  // namespace camscribe::core
