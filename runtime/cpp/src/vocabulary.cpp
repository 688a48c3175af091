#include "vocabulary.hpp"

#include <algorithm>

#include "typed_json.hpp"

namespace camscribe::core {

Vocabulary::Vocabulary(const std::string& text, const Manifest& manifest) : special_(manifest.special_tokens) {
  Problems problems;
  if (!is_utf8(text)) problems.emplace_back("cannot be read as UTF-8 text");
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    tokens_.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  const auto is_wrong = [](const std::string& token) {
    return token.empty() || token.find_first_of(" \t\r\v\f") != std::string::npos;
  };
  if (std::any_of(tokens_.begin(), tokens_.end(), is_wrong)) {
    problems.emplace_back("has a token that is empty or holds white space");
  }
  for (const auto& token : tokens_) ids_.emplace(token, std::int32_t(ids_.size()));
  if (ids_.size() != tokens_.size()) problems.emplace_back("has a token twice");
  if (tokens_.size() != std::size_t(manifest.vocabulary_size)) {
    problems.push_back("has " + std::to_string(tokens_.size()) + " tokens; expected " +
                       std::to_string(manifest.vocabulary_size));
  }
  for (const auto& [token, id] :
       {std::pair{"<pad>", special_.pad}, {"<s>", special_.start}, {"</s>", special_.end}, {"<unk>", special_.unknown}}) {
    const auto found = ids_.find(token);
    if (found == ids_.end() || found->second != id) {
      problems.push_back("has no " + std::string(token) + " at " + std::to_string(id));
    }
  }
  for (const auto& word : manifest.search.ban) {
    if (!contains(word)) problems.push_back("lacks '" + word.substr(0, 60) + "', which search.ban has");
  }
  if (!problems.empty()) throw BundleError("vocab.txt " + join(problems, ", "));
}

const std::string* Vocabulary::word(std::int32_t id) const {
  return id >= 0 && std::size_t(id) < tokens_.size() ? &tokens_[id] : nullptr;
}

std::vector<float> Vocabulary::bias(const std::vector<std::string>& ban) const {
  std::vector<float> bias(tokens_.size());
  bias[special_.pad] = bias[special_.start] = kDead;
  for (const auto& word : ban) bias[ids_.at(word)] = kDead;
  return bias;
}

}  // namespace camscribe::core
