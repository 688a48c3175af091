// How pixels are reduced, exactly as runtime/pixels.py does it, with the same library: captions depend on it.
#pragma once

#include <camscribe/camscribe.h>

#include <vector>

namespace cv {
class Mat;
}

namespace camscribe::core {

// How the pixels of a photograph become the encoder's input.
struct PixelSpec {
  int height = 0;    // rows of the encoder's input
  int width = 0;     // columns of the encoder's input
  bool crop = false; // the largest centred part of that ratio; else the whole picture, its aspect ratio given up
};

// One resize: rows and columns after it, and a filter of OpenCV.
struct Resize {
  int height;
  int width;
  int filter;
};

// Part of an image.
struct Box {
  int top;
  int left;
  int rows;
  int columns;
};

// How `reduce` brings the visible part of an image to the encoder's size.
std::vector<Resize> resizes(int height, int width, const PixelSpec& spec);

// The part that the model sees of so many rows and columns.
Box visible_box(int height, int width, const PixelSpec& spec);

// A caller's image as RGB, uint8 [h, w, 3], in memory of its own or of the caller. Throws SourceError.
cv::Mat as_rgb(const camscribe_image& image);

// Reduces RGB of any size to the encoder's input, uint8 [spec.height, spec.width, 3].
cv::Mat reduce(const cv::Mat& image, const PixelSpec& spec);

}  // namespace camscribe::core
