// Fused camera preprocessing: an image of any size, pitch and layout becomes the encoder's uint8 RGB input in one pass.
//
// What is summed with which weights is decided by weights.py, the rules of runtime/pixels.py; here is the arithmetic.
// Compiled by NVRTC when it is first needed, by nvcc where CMake is asked to (-DCAMSCRIBE_CUDA=ON), and by a host
// compiler in the tests: so nothing is included, and no type has a name that only one of them knows.

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define CAMSCRIBE_FUNCTION __host__ __device__ inline
#else
#define CAMSCRIBE_FUNCTION inline
#endif

typedef unsigned char Byte;

enum Layout { LAYOUT_RGB = 0, LAYOUT_BGR = 1, LAYOUT_GREY = 2, LAYOUT_NV12 = 3 };

struct Source {
    const Byte* pixels;    // first pixel; of NV12 the first of Y
    const Byte* chroma;    // of NV12 the first pair of U and V, half as many rows and columns; else unused
    long long row;         // bytes from row to row, of NV12 in both planes
    long long column;      // bytes from pixel to pixel
    long long channel;     // bytes from channel to channel
    int layout;
};

struct Band {
    const int* first;      // [results] first source pixel
    const float* weights;  // [results, taps]
    int taps;
};

CAMSCRIBE_FUNCTION Byte to_byte(int value) { return (Byte)(value < 0 ? 0 : value > 255 ? 255 : value); }

// BT.601 with Y from 16 to 235: R = 1.164 (Y - 16) + 1.596 (V - 128) and so on, in units of 2^-20, rounded.
CAMSCRIBE_FUNCTION void nv12_to_rgb(int y, int u, int v, Byte rgb[3]) {
    const int half = 1 << 19;
    const int luma = (y < 16 ? 0 : y - 16) * 1220542 + half;
    u -= 128;
    v -= 128;
    rgb[0] = to_byte((luma + 1673527 * v) >> 20);
    rgb[1] = to_byte((luma - 852492 * v - 409993 * u) >> 20);
    rgb[2] = to_byte((luma + 2116026 * u) >> 20);
}

CAMSCRIBE_FUNCTION void read_rgb(const Source& source, int y, int x, Byte rgb[3]) {
    const Byte* at = source.pixels + y * source.row + x * source.column;
    if (source.layout == LAYOUT_NV12) {
        const Byte* pair = source.chroma + (y / 2) * source.row + (x & ~1);
        nv12_to_rgb(*at, pair[0], pair[1], rgb);
    } else if (source.layout == LAYOUT_GREY) {
        rgb[0] = rgb[1] = rgb[2] = *at;
    } else {
        const int red = source.layout == LAYOUT_BGR ? 2 : 0;
        rgb[0] = at[red * source.channel];
        rgb[1] = at[source.channel];
        rgb[2] = at[(2 - red) * source.channel];
    }
}

CAMSCRIBE_FUNCTION void reduce_pixel(const Source& source, const Band& rows, const Band& columns, int y, int x, Byte out[3]) {
    float sum[3] = {0.0f, 0.0f, 0.0f};
    for (int i = 0; i < rows.taps; ++i) {
        const float down = rows.weights[(long long)y * rows.taps + i];
        if (down == 0.0f) continue;
        float line[3] = {0.0f, 0.0f, 0.0f};
        for (int j = 0; j < columns.taps; ++j) {
            const float across = columns.weights[(long long)x * columns.taps + j];
            if (across == 0.0f) continue;
            Byte rgb[3];
            read_rgb(source, rows.first[y] + i, columns.first[x] + j, rgb);
            for (int c = 0; c < 3; ++c) line[c] += across * (float)rgb[c];
        }
        for (int c = 0; c < 3; ++c) sum[c] += down * line[c];
    }
    for (int c = 0; c < 3; ++c) out[c] = to_byte((int)(sum[c] < 0.0f ? 0.0f : sum[c] + 0.5f));
}

#define CAMSCRIBE_ARGUMENTS                                                                                        \
    const Byte *pixels, const Byte *chroma, long long row, long long column, long long channel, int layout,        \
        const int *first_rows, const float *row_weights, int row_taps, const int *first_columns,                   \
        const float *column_weights, int column_taps, Byte *out, int height, int width

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)

// One thread for each pixel of the result; out is uint8 [height, width, 3].
extern "C" __global__ void camscribe_reduce(CAMSCRIBE_ARGUMENTS) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const Source source = {pixels, chroma, row, column, channel, layout};
    const Band rows = {first_rows, row_weights, row_taps};
    const Band columns = {first_columns, column_weights, column_taps};
    reduce_pixel(source, rows, columns, y, x, out + ((long long)y * width + x) * 3);
}

#else

// The same on a host, for tests without a GPU.
extern "C" void camscribe_reduce(CAMSCRIBE_ARGUMENTS) {
    const Source source = {pixels, chroma, row, column, channel, layout};
    const Band rows = {first_rows, row_weights, row_taps};
    const Band columns = {first_columns, column_weights, column_taps};
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x) reduce_pixel(source, rows, columns, y, x, out + ((long long)y * width + x) * 3);
}

#endif
