#include "interface.hpp"

#include <algorithm>

namespace camscribe::core {

namespace {

bool matches(const TensorSpec& expected, const TensorSpec& found) {
  const auto same = [](const TensorSpec::Size& a, const TensorSpec::Size& b) {
    return !a.name.empty() || !b.name.empty() || a.number == b.number;
  };
  return expected.dtype == found.dtype && std::equal(expected.shape.begin(), expected.shape.end(), found.shape.begin(),
                                                     found.shape.end(), same);
}

const TensorSpec* find(const TensorSpecs& specs, const std::string& name) {
  const auto found =
      std::find_if(specs.begin(), specs.end(), [&](const TensorSpec& spec) { return spec.name == name; });
  return found == specs.end() ? nullptr : &*found;
}

void compare(const GraphSpec& graph, const std::string& side, const TensorSpecs& expected, const TensorSpecs& found,
             Problems& problems) {
  for (const TensorSpec& spec : expected) {
    const TensorSpec* real = find(found, spec.name);
    if (real == nullptr) {
      problems.push_back(graph.file + " has no " + side + " " + spec.name);
    } else if (!matches(spec, *real)) {
      problems.push_back(graph.file + " has " + side + " " + real->text() + "; expected " + spec.text());
    }
  }
  for (const TensorSpec& spec : found) {
    if (find(expected, spec.name) == nullptr) {
      problems.push_back(graph.file + " has an unknown " + side + " " + spec.text());
    }
  }
}

// Where the output that places the positions is not what its readers take for granted.
Problems box_problems(const Manifest& manifest, const GraphPair& pair) {
  Problems problems;
  const TensorSpec* boxes = find(pair.encoder.outputs, kBoxes);
  if (boxes == nullptr) return problems;
  const std::int64_t positions = std::int64_t(manifest.rows) * manifest.columns;
  const TensorSpec expected{kBoxes, "float32", {"B", positions, 4}};
  const auto same = [](const TensorSpec::Size& a, const TensorSpec::Size& b) {
    return a.name == b.name && (!a.name.empty() || a.number == b.number);
  };
  const auto& shape = boxes->shape;
  const bool fits = shape.size() == 3 && same(shape[0], "B") && (same(shape[1], positions) || same(shape[1], "P")) &&
                    same(shape[2], 4);
  if (boxes->dtype != "float32" || !fits) {
    problems.push_back("encoder has output " + boxes->text() + "; expected " + expected.text());
  }
  if (manifest.rows != 1) {
    problems.push_back("attention_grid is (" + std::to_string(manifest.rows) + ", " + std::to_string(manifest.columns) +
                       "); expected one row, as the encoder gives boxes");
  }
  return problems;
}

template <class List>
void append(List& list, const List& more) {
  list.insert(list.end(), more.begin(), more.end());
}

}  // namespace

std::string TensorSpec::text() const {
  std::vector<std::string> sizes;
  for (const Size& size : shape) sizes.push_back(size.name.empty() ? std::to_string(size.number) : size.name);
  return name + " " + dtype + "[" + join(sizes, ",") + "]";
}

std::vector<std::int64_t> TensorSpec::fixed_shape(const Sizes& sizes) const {
  std::vector<std::int64_t> fixed;
  for (const Size& size : shape) {
    const auto known = sizes.find(size.name);
    if (!size.name.empty() && known == sizes.end()) {
      throw EngineError("tensor " + text() + " has a size nobody knows: " + size.name);
    }
    fixed.push_back(size.name.empty() ? size.number : known->second);
  }
  return fixed;
}

bool GraphSpec::has_boxes() const { return find(outputs, kBoxes) != nullptr; }

Problems GraphSpec::differences(const TensorSpecs& real_inputs, const TensorSpecs& real_outputs) const {
  Problems problems;
  compare(*this, "input", inputs, real_inputs, problems);
  compare(*this, "output", outputs, real_outputs, problems);
  return problems;
}

TensorSpecs with_prefix(const TensorSpecs& specs, const std::string& prefix) {
  TensorSpecs found;
  std::copy_if(specs.begin(), specs.end(), std::back_inserter(found),
               [&](const TensorSpec& spec) { return spec.name.compare(0, prefix.size(), prefix) == 0; });
  return found;
}

Problems interface_problems(const Manifest& manifest, const GraphPair& pair) {
  const std::int64_t words = manifest.vocabulary_size, positions = std::int64_t(manifest.rows) * manifest.columns;
  const GraphSpec image{
      "encoder", {}, {{"image", "uint8", {"B", manifest.pixels.height, manifest.pixels.width, 3}}}, {}};
  Problems problems = image.differences(pair.encoder.inputs, {});
  const TensorSpecs memory = with_prefix(pair.encoder.outputs, "memory.");
  const TensorSpecs state = with_prefix(pair.encoder.outputs, "state.");
  for (const TensorSpec& spec : pair.encoder.outputs) {
    if (spec.name == kBoxes) continue;
    if (find(memory, spec.name) == nullptr && find(state, spec.name) == nullptr) {
      problems.push_back("encoder has output " + spec.text() + "; expected memory.*, state.* or boxes");
    } else if (spec.shape.empty() || spec.shape[0].name != "B") {
      problems.push_back("encoder has output " + spec.text() + "; expected the images first");
    }
  }
  append(problems, box_problems(manifest, pair));
  if (!problems.empty()) return problems;
  TensorSpecs beams, next;
  for (TensorSpec spec : state) {
    spec.shape.insert(spec.shape.begin() + 1, TensorSpec::Size("K"));
    beams.push_back(spec);
    spec.name = "next_" + spec.name;
    next.push_back(spec);
  }
  GraphSpec decoder{"decoder",
                    {},
                    {{"token", "int32", {"B", "K"}},
                     {"parent", "int32", {"B", "K"}},
                     {"score", "float32", {"B", "K"}},
                     {"step", "int32", {1}},
                     {"min_words", "int32", {1}},
                     {"bias", "float32", {words}}},
                    {{"next_token", "int32", {"B", "K"}},
                     {"next_parent", "int32", {"B", "K"}},
                     {"next_score", "float32", {"B", "K"}},
                     {"ended_score", "float32", {"B", "K"}},
                     {"ended_parent", "int32", {"B", "K"}},
                     {"attention", "float32", {"B", "K", positions}},
                     {"log_prob", "float32", {"B", "K", words}}}};
  append(decoder.inputs, beams);
  append(decoder.inputs, memory);
  append(decoder.outputs, next);
  return decoder.differences(pair.decoder.inputs, pair.decoder.outputs);
}

}  // namespace camscribe::core
