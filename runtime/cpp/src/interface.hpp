// The interface of the two graphs, which the executors drive and docs/design.md describes.
#pragma once

#include "manifest.hpp"

namespace camscribe::core {

// Those of some tensors whose names begin with a prefix, such as "state.".
TensorSpecs with_prefix(const TensorSpecs& specs, const std::string& prefix);

// Where the specs of two graphs are not that interface.
Problems interface_problems(const Manifest& manifest, const GraphPair& pair);

}  // namespace camscribe::core
