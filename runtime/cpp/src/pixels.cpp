#include "pixels.hpp"

#include <algorithm>
#include <cmath>
#include <opencv2/imgproc.hpp>

#include "errors.hpp"

namespace camscribe::core {

namespace {

constexpr std::int64_t kMaxPixels = 89'478'485;  // as in runtime/images.py
constexpr double kSampled = 5;                   // see runtime/pixels.py
constexpr double kHalved = 12;

std::size_t row_bytes(const camscribe_image& image) {
  const bool three = image.format == CAMSCRIBE_RGB || image.format == CAMSCRIBE_BGR;
  return std::size_t(image.width) * (three ? 3 : 1);
}

void check(const camscribe_image& image) {
  const std::string size = std::to_string(image.width) + " x " + std::to_string(image.height);
  if (image.format < CAMSCRIBE_RGB || image.format > CAMSCRIBE_NV12) {
    throw SourceError("image has format " + std::to_string(image.format) +
                      "; expected CAMSCRIBE_RGB, _BGR, _GREY or _NV12");
  }
  if (image.width < 1 || image.height < 1) {
    throw SourceError("image has " + size + " pixels; expected at least one");
  }
  if (std::int64_t(image.width) * image.height > kMaxPixels) {
    throw SourceError("image has " + size + " pixels; expected at most " + std::to_string(kMaxPixels) + " in all");
  }
  if (image.format == CAMSCRIBE_NV12 && (image.width % 2 != 0 || image.height % 2 != 0)) {
    throw SourceError("image has " + size + " pixels; expected even sides for NV12");
  }
  if (image.format != CAMSCRIBE_NV12 && (image.chroma != nullptr || image.chroma_stride != 0)) {
    throw SourceError("image has chroma, which is for NV12 only");
  }
  if (image.data == nullptr) throw SourceError("image has no data: the pointer is null");
  for (const std::size_t stride : {image.stride, image.chroma_stride}) {
    if (stride != 0 && stride < row_bytes(image)) {
      throw SourceError("image has a stride of " + std::to_string(stride) + " bytes; expected at least " +
                        std::to_string(row_bytes(image)) + " for " + std::to_string(image.width) + " pixels a row");
    }
  }
}

}  // namespace

std::vector<Resize> resizes(int height, int width, const PixelSpec& spec) {
  std::vector<Resize> steps;
  const auto to = [&](int rows, int columns, int filter) {
    if (rows == height && columns == width) return;
    height = rows;
    width = columns;
    steps.push_back({rows, columns, filter});
  };
  const auto down = [&] { return double(height) / spec.height; };
  const auto across = [&] { return double(width) / spec.width; };

  while (std::min(down(), across()) >= 2 && down() * across() > kHalved) to(height / 2, width / 2, cv::INTER_AREA);
  const int rows = std::min(height, spec.height), columns = std::min(width, spec.width);
  if ((rows != height || columns != width) && std::max(down(), across()) <= kSampled) {
    to(height > spec.height ? 2 * spec.height : height, width > spec.width ? 2 * spec.width : width,
       cv::INTER_LINEAR);
  }
  // OpenCV's area filter is one only where neither axis grows, so the axes that shrink go first, alone.
  to(rows, columns, cv::INTER_AREA);
  to(spec.height, spec.width, cv::INTER_CUBIC);
  return steps;
}

Box visible_box(int height, int width, const PixelSpec& spec) {
  if (!spec.crop) return {0, 0, height, width};
  const double ratio = double(spec.height) / spec.width;
  // nearbyint rounds halves to even, as Python's round does.
  const int rows = std::max(1, int(std::min<double>(height, std::nearbyint(width * ratio))));
  const int columns = std::max(1, int(std::min<double>(width, std::nearbyint(height / ratio))));
  return {(height - rows) / 2, (width - columns) / 2, rows, columns};
}

cv::Mat as_rgb(const camscribe_image& image) {
  check(image);
  const std::size_t stride = image.stride != 0 ? image.stride : row_bytes(image);
  // OpenCV reads only, but has no type for that.
  const auto plane = [](const std::uint8_t* data, int rows, int columns, int type, std::size_t step) {
    return cv::Mat(rows, columns, type, const_cast<std::uint8_t*>(data), step);
  };
  cv::Mat rgb;
  switch (image.format) {
    case CAMSCRIBE_RGB:
      return plane(image.data, image.height, image.width, CV_8UC3, stride);
    case CAMSCRIBE_BGR:
      cv::cvtColor(plane(image.data, image.height, image.width, CV_8UC3, stride), rgb, cv::COLOR_BGR2RGB);
      return rgb;
    case CAMSCRIBE_GREY:
      cv::cvtColor(plane(image.data, image.height, image.width, CV_8UC1, stride), rgb, cv::COLOR_GRAY2RGB);
      return rgb;
    default: {
      const std::uint8_t* chroma = image.chroma != nullptr ? image.chroma : image.data + stride * image.height;
      const std::size_t chroma_stride = image.chroma_stride != 0 ? image.chroma_stride : stride;
      cv::cvtColorTwoPlane(plane(image.data, image.height, image.width, CV_8UC1, stride),
                           plane(chroma, image.height / 2, image.width / 2, CV_8UC2, chroma_stride), rgb,
                           cv::COLOR_YUV2RGB_NV12);
      return rgb;
    }
  }
}

cv::Mat reduce(const cv::Mat& image, const PixelSpec& spec) {
  const Box box = visible_box(image.rows, image.cols, spec);
  cv::Mat reduced = image(cv::Rect(box.left, box.top, box.columns, box.rows));
  for (const Resize& step : resizes(reduced.rows, reduced.cols, spec)) {
    cv::Mat next;
    cv::resize(reduced, next, cv::Size(step.width, step.height), 0, 0, step.filter);
    reduced = next;
  }
  return reduced;
}

}  // namespace camscribe::core
