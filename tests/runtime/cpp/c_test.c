/* The header is C, and a C program can caption: test pattern in, sentence out, every error a status. */
#include <camscribe/camscribe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(condition)                                                             \
  do {                                                                                \
    if (!(condition)) {                                                               \
      fprintf(stderr, "line %d: %s; %s\n", __LINE__, #condition, camscribe_last_error()); \
      exit(1);                                                                        \
    }                                                                                 \
  } while (0)

int main(int count, char** arguments) {
  static uint8_t pixels[480 * 640 * 3];
  camscribe_captioner* captioner = NULL;
  camscribe_caption* caption = NULL;
  camscribe_load_options load = {0};
  camscribe_image image = {0};
  camscribe_options options = {0};
  camscribe_hypothesis best = {0};
  camscribe_info info = {0};
  size_t index;

  EXPECT(count == 2);
  EXPECT(camscribe_abi_version() == CAMSCRIBE_ABI_VERSION);
  load.size = sizeof load;
  load.backend = "cpu";
  EXPECT(camscribe_captioner_load(arguments[1], &load, &captioner) == CAMSCRIBE_OK);
  info.size = sizeof info;
  EXPECT(camscribe_captioner_info(captioner, &info) == CAMSCRIBE_OK);
  EXPECT(strcmp(info.backend, "cpu") == 0);

  for (index = 0; index < sizeof pixels; ++index) pixels[index] = (uint8_t)(index / 1920);
  image.size = sizeof image;
  image.data = pixels;
  image.format = CAMSCRIBE_RGB;
  image.width = 640;
  image.height = 480;
  options.size = sizeof options;
  options.set = CAMSCRIBE_SET_BEAMS | CAMSCRIBE_SET_NBEST;
  options.beams = 5;
  options.nbest = 2;
  EXPECT(camscribe_caption_image(captioner, &image, &options, &caption) == CAMSCRIBE_OK);
  camscribe_captioner_free(captioner); /* a caption does not need it */
  EXPECT(camscribe_caption_count(caption) == 2);
  best.size = sizeof best;
  EXPECT(camscribe_caption_hypothesis(caption, 0, &best) == CAMSCRIBE_OK);
  EXPECT(best.word_count > 0 && strlen(best.text) > 0);
  EXPECT(camscribe_caption_hypothesis(caption, 2, &best) == CAMSCRIBE_ARGUMENT_ERROR);
  EXPECT(strstr(camscribe_last_error(), "0 to 1") != NULL);
  puts(best.text);
  camscribe_caption_free(caption);
  return 0;
}
