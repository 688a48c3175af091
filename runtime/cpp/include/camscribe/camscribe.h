/* camscribe: image captioning at the edge. The C interface of libcamscribe; <camscribe/camscribe.hpp> wraps it for C++.
 *
 * Errors    Functions that can fail return a camscribe_status; camscribe_last_error() says the rest in one line. No C++
 *           exception leaves the library.
 * Memory    Handles are made by a function and given back with its ..._free. What is read from a handle (texts, arrays)
 *           belongs to it and lives as long. A caption does not need its captioner to live.
 * Threads   Any number of threads may caption with one captioner: pixels are reduced in parallel, the graphs run for one
 *           call at a time. A caption is never written after it was made, so any thread may read it. Only the frees must
 *           be the last use of a handle.
 * Versions  Every struct begins with its own size: write sizeof. Zeros in all other members mean "as the bundle has it".
 *           Structs grow at their end only, so programs run with a newer library without being compiled again; an older
 *           library refuses what it does not know. CAMSCRIBE_ABI_VERSION changes when that no longer holds.
 */
#ifndef CAMSCRIBE_H
#define CAMSCRIBE_H

#include <stddef.h>
#include <stdint.h>

#define CAMSCRIBE_ABI_VERSION 1

#if defined(_WIN32)
#if defined(CAMSCRIBE_BUILDING)
#define CAMSCRIBE_API __declspec(dllexport)
#else
#define CAMSCRIBE_API __declspec(dllimport)
#endif
#else
#define CAMSCRIBE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What became of a call: 0, or the kind of error. */
typedef int32_t camscribe_status;
enum {
  CAMSCRIBE_OK = 0,
  CAMSCRIBE_ARGUMENT_ERROR = 1,  /* a null pointer, a struct whose size is wrong, an index out of range */
  CAMSCRIBE_BUNDLE_ERROR = 2,    /* the bundle is missing, altered, incomplete or of another schema */
  CAMSCRIBE_ENGINE_ERROR = 3,    /* a graph cannot be loaded or run on the chosen device, or a library is missing */
  CAMSCRIBE_NO_ENGINE_ERROR = 4, /* only a built TensorRT engine is missing: run camscribe build */
  CAMSCRIBE_OPTION_ERROR = 5,    /* an option, or a combination of options, has no meaning */
  CAMSCRIBE_SOURCE_ERROR = 6,    /* the image is not one */
  CAMSCRIBE_MEMORY_ERROR = 7,    /* there is not enough memory */
  CAMSCRIBE_INTERNAL_ERROR = 8   /* a bug in camscribe: please report the message */
};

/* CAMSCRIBE_ABI_VERSION of the library that is loaded. */
CAMSCRIBE_API int32_t camscribe_abi_version(void);
/* Version of the library that is loaded, such as "0.1.0". */
CAMSCRIBE_API const char* camscribe_version(void);
/* What went wrong in the last call of this thread that failed, in one line of UTF-8; "" if none did. It lives until the
 * next call of this thread that fails. */
CAMSCRIBE_API const char* camscribe_last_error(void);

/* ---- A captioner: a loaded bundle, ready to caption. */

typedef struct camscribe_captioner camscribe_captioner;

typedef struct camscribe_load_options {
  size_t size;             /* sizeof(camscribe_load_options) */
  const char* backend;     /* "auto" (or NULL), "cpu", "tensorrt" */
  const char* precision;   /* one the bundle has, such as "float32" or "int8"; NULL for its default on that device */
  int32_t threads;         /* of a CPU, 1 to 1024; 0 for one per physical core */
  int32_t reserved;        /* 0 */
  const char* onnxruntime; /* file of ONNX Runtime's library; NULL for $CAMSCRIBE_ONNXRUNTIME, else the installed one */
} camscribe_load_options;

/* Loads a bundle, a folder written by `camscribe export`, checked as in Python. options may be NULL. */
CAMSCRIBE_API camscribe_status camscribe_captioner_load(const char* bundle, const camscribe_load_options* options,
                                                        camscribe_captioner** captioner);
CAMSCRIBE_API void camscribe_captioner_free(camscribe_captioner* captioner);

typedef struct camscribe_info {
  size_t size;             /* sizeof(camscribe_info) */
  const char* name;        /* of the bundle */
  const char* backend;     /* "cpu" or "tensorrt" */
  const char* precision;   /* that was taken */
  const char* reasons;     /* why this backend, and why not the others; one line each */
  const char* onnxruntime; /* version of ONNX Runtime; "" where it was not needed */
  int32_t vocabulary_size;
  int32_t width, height;       /* of the encoder's input: an RGB image of this size is taken as it is */
  int32_t rows, columns;       /* grid of the attention */
  int32_t beams, nbest;        /* the bundle's own, of a search that does not say otherwise */
  int32_t max_words, min_words;
  int32_t reserved;
  double length_penalty;
} camscribe_info;

CAMSCRIBE_API camscribe_status camscribe_captioner_info(const camscribe_captioner* captioner, camscribe_info* info);
/* The word of an id below vocabulary_size; NULL for others. */
CAMSCRIBE_API const char* camscribe_captioner_word(const camscribe_captioner* captioner, int32_t id);

/* ---- Images. */

typedef int32_t camscribe_format;
enum {
  CAMSCRIBE_RGB = 1,  /* 3 bytes a pixel */
  CAMSCRIBE_BGR = 2,  /* 3 bytes a pixel, as OpenCV has it */
  CAMSCRIBE_GREY = 3, /* 1 byte a pixel */
  CAMSCRIBE_NV12 = 4  /* as cameras give it: Y, then U and V in turns at half the size; BT.601, 16 to 235 */
};

typedef struct camscribe_image {
  size_t size;            /* sizeof(camscribe_image) */
  const uint8_t* data;    /* the first row, at the top */
  camscribe_format format;
  int32_t width, height;  /* pixels; even ones for NV12 */
  int32_t reserved;       /* 0 */
  size_t stride;          /* bytes from one row to the next; 0 where rows follow without a gap */
  const uint8_t* chroma;  /* NV12: U and V, where they do not follow Y at height * stride; else NULL */
  size_t chroma_stride;   /* bytes from one row of chroma to the next; 0 for that of Y */
} camscribe_image;

/* ---- Captions. */

/* Which members of camscribe_options count; the others are as the bundle has them. */
enum {
  CAMSCRIBE_SET_BEAMS = 1,
  CAMSCRIBE_SET_MAX_WORDS = 2,
  CAMSCRIBE_SET_MIN_WORDS = 4,
  CAMSCRIBE_SET_NBEST = 8,
  CAMSCRIBE_SET_LENGTH_PENALTY = 16,
  CAMSCRIBE_SET_STOP = 32,
  CAMSCRIBE_SET_POLL = 64
};

enum {
  CAMSCRIBE_STOP_OPTIMAL = 0, /* stop when no live beam can still enter the n best */
  CAMSCRIBE_STOP_FIRST_K = 1  /* stop when as many hypotheses as there are beams have ended */
};

typedef struct camscribe_options {
  size_t size;              /* sizeof(camscribe_options) */
  uint32_t set;             /* CAMSCRIBE_SET_... of the members that count */
  int32_t beams;            /* live hypotheses, 1 to 64; 1 is greedy search */
  int32_t max_words;        /* 1 to 200; a caption not ended by then is truncated */
  int32_t min_words;        /* fewest words, below max_words; 0 for any number */
  int32_t nbest;            /* hypotheses returned, best first; at most beams */
  int32_t stop;             /* CAMSCRIBE_STOP_... */
  double length_penalty;    /* alpha in score / length**alpha, -10 to 10; 0 for none */
  int32_t poll;             /* steps between two looks at the trace; changes the time, never a caption */
  int32_t reserved;         /* 0 */
  const char* const* ban;   /* words that may not appear, besides those that the bundle bans */
  size_t ban_count;
} camscribe_options;

typedef struct camscribe_caption camscribe_caption;

/* Captions an image. options may be NULL. The image is not needed afterwards. */
CAMSCRIBE_API camscribe_status camscribe_caption_image(camscribe_captioner* captioner, const camscribe_image* image,
                                                       const camscribe_options* options, camscribe_caption** caption);
CAMSCRIBE_API void camscribe_caption_free(camscribe_caption* caption);

/* One caption of an image. */
typedef struct camscribe_hypothesis {
  size_t size;              /* sizeof(camscribe_hypothesis) */
  const char* text;         /* all words, with a space between two; UTF-8 */
  const char* const* words; /* [word_count] */
  const int32_t* tokens;    /* [word_count] ids of the words */
  const float* attention;   /* [word_count, rows, columns]: where the model looked for each word; each grid sums to 1 */
  int32_t word_count;
  int32_t rows, columns;    /* of the attention */
  int32_t truncated;        /* 1 when max_words came before the end */
  double log_prob;          /* natural logarithm of the probability of the whole, its end included unless truncated */
  double score;             /* log_prob / length**length_penalty; hypotheses are ranked by it */
} camscribe_hypothesis;

/* Number of hypotheses, at least 1; 0 for NULL. */
CAMSCRIBE_API int32_t camscribe_caption_count(const camscribe_caption* caption);
/* Hypothesis `index`; the best is 0. */
CAMSCRIBE_API camscribe_status camscribe_caption_hypothesis(const camscribe_caption* caption, int32_t index,
                                                            camscribe_hypothesis* hypothesis);

/* The recorded selections of the search that made a caption; row t is what step t decided. */
typedef struct camscribe_trace {
  size_t size;                 /* sizeof(camscribe_trace) */
  int32_t steps, beams;        /* T, K */
  int32_t positions;           /* P = rows * columns of the attention */
  int32_t reserved;
  const int32_t* token;        /* [T, K] next word of each beam that lives on, best first */
  const int32_t* parent;       /* [T, K] the beam it continues */
  const float* score;          /* [T, K] its summed log-probability; -1e9 for a dead beam */
  const float* ended_score;    /* [T, K] by rank, of a beam that ended; -1e9 where that rank did not */
  const int32_t* ended_parent; /* [T, K] the beam that ended */
  const float* attention;      /* [T, K, P] of the beams that step t continued */
} camscribe_trace;

CAMSCRIBE_API camscribe_status camscribe_caption_trace(const camscribe_caption* caption, camscribe_trace* trace);

/* Where the columns of the attention's one row lie, for a model that attends to boxes: [count, 4], left, top, right and bottom
 * as fractions of the image. The first is all that the model sees; zeros are none. Other models: NULL, count 0. */
CAMSCRIBE_API camscribe_status camscribe_caption_boxes(const camscribe_caption* caption, const float** boxes,
                                                       int32_t* count);

/* Where the time went. */
typedef struct camscribe_timings {
  size_t size;      /* sizeof(camscribe_timings) */
  double read_ms;   /* conversion to RGB */
  double reduce_ms; /* resizing to the encoder's input */
  double encode_ms;
  double decode_ms; /* all decoder steps, the stop rule and reading the hypotheses back */
  double words_ms;  /* from ids to words */
} camscribe_timings;

CAMSCRIBE_API camscribe_status camscribe_caption_timings(const camscribe_caption* caption, camscribe_timings* timings);

#ifdef __cplusplus
}
#endif

#endif
