// The words a captioner knows: one token a line, the line's number is its id.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "manifest.hpp"

namespace camscribe::core {

class Vocabulary {
 public:
  // text: of vocab.txt. Throws BundleError if its tokens are not a vocabulary, or not the manifest's.
  Vocabulary(const std::string& text, const Manifest& manifest);

  // The word of an id; nullptr where there is none.
  const std::string* word(std::int32_t id) const;
  bool contains(const std::string& token) const { return ids_.count(token) != 0; }
  // [V] what a search adds to the log-probabilities: bans <pad> and <s>, and some words.
  std::vector<float> bias(const std::vector<std::string>& ban) const;

 private:
  std::vector<std::string> tokens_;
  std::unordered_map<std::string, std::int32_t> ids_;
  SpecialTokens special_;
};

}  // namespace camscribe::core
