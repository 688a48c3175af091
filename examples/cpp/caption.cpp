// caption BUNDLE PICTURE.ppm: the three best sentences for a picture, and where the model looked for each word of the best.
#include <camscribe/camscribe.hpp>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <iterator>

int main(int count, char** arguments) try {
  if (count != 3) {
    std::cerr << "usage: caption BUNDLE PICTURE.ppm (any picture: convert picture.jpg picture.ppm)\n";
    return 2;
  }
  std::ifstream file(arguments[2], std::ios::binary);
  std::string magic;
  int width = 0, height = 0, largest = 0;
  if (!(file >> magic >> width >> height >> largest) || magic != "P6" || largest != 255 || width < 1 || height < 1) {
    throw std::runtime_error(std::string(arguments[2]) + ": is not a binary PPM of 8 bits");
  }
  file.get();
  const std::vector<char> pixels(std::istreambuf_iterator<char>(file), {});
  if (pixels.size() < std::size_t(width) * height * 3) throw std::runtime_error("the picture is truncated");

  camscribe::Captioner captioner(arguments[1]);
  camscribe::Options options;
  options.nbest = 3;
  const camscribe::Image image{reinterpret_cast<const std::uint8_t*>(pixels.data()), width, height};
  const camscribe::Caption caption = captioner.caption(image, options);

  for (const auto& found : caption.hypotheses()) std::cout << found.score << "  " << found.text << "\n";
  const auto& best = caption.best();
  for (std::size_t word = 0; word < best.words.size(); ++word) {
    const float* grid = best.attention_of(word);
    const auto cell = std::max_element(grid, grid + best.rows * best.columns) - grid;
    std::cout << best.words[word] << ": row " << cell / best.columns << ", column " << cell % best.columns << "\n";
  }
} catch (const std::exception& error) {
  std::cerr << "caption: " << error.what() << "\n";
  return 1;
}
