// Decodes a JPEG by libjpeg-turbo, and refuses one whose pixels cannot be right.
//
// libjpeg goes on where data are damaged, fills in grey and calls that a warning. TurboJPEG's interface tells the last
// warning alone, so that a harmless one hides what came before it. Here each is judged as it comes.
// Its caller is src/data/decode/jpeg.rs.

#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

// What colours the components are; the caller's `Colours`.
enum { TOLD_BY_FILE = 0, RGB = 1, YCBCR = 2 };

enum { ROWS = 8 };

struct judge {
    struct jpeg_error_mgr manager;  // first: libjpeg knows no more than this
    jmp_buf give_up;
    char *message;
};

static void fail(j_common_ptr decoder) {
    struct judge *judge = (struct judge *)decoder->err;
    (*decoder->err->format_message)(decoder, judge->message);
    longjmp(judge->give_up, 1);
}

static void weigh(j_common_ptr decoder, int level) {
    if (level >= 0)
        return;  // a trace
    int marker = decoder->err->msg_parm.i[1];
    switch (decoder->err->msg_code) {
        case JWRN_JPEG_EOF:        // of no account while no data of the picture are missing: that is JWRN_HIT_MARKER
        case JWRN_ADOBE_XFORM:     // a colour transform that Adobe has not defined is taken for the usual one
        case JWRN_JFIF_MAJOR:      // a version
        case JWRN_NOT_SEQUENTIAL:  // numbers that mean nothing in a sequential file
            return;
        case JWRN_EXTRANEOUS_DATA:
            // Cameras fill up behind the picture. Before a restart marker it is data that should have been pixels.
            if (marker < JPEG_RST0 || marker > JPEG_RST0 + 7)
                return;
            break;
        default:
            break;
    }
    fail(decoder);
}

static void say_nothing(j_common_ptr decoder) { (void)decoder; }

// Values of CMYK JPEGs are the light that the ink lets through, as Adobe writes them and OpenCV and Pillow read them.
static void rgb_of_cmyk(const JSAMPLE *cmyk, JSAMPLE *rgb, size_t pixels) {
    for (size_t at = 0; at < pixels; at++, cmyk += 4, rgb += 3)
        for (int colour = 0; colour < 3; colour++)
            rgb[colour] = (JSAMPLE)((cmyk[colour] * cmyk[3] + 127) / 255);
}

static void read_rows(j_decompress_ptr decoder, JSAMPLE *pixels, size_t stride) {
    JSAMPROW rows[ROWS];
    JSAMPARRAY inks = NULL;
    if (decoder->out_color_space == JCS_CMYK)
        inks = (*decoder->mem->alloc_sarray)((j_common_ptr)decoder, JPOOL_IMAGE, decoder->output_width * 4, 1);
    while (decoder->output_scanline < decoder->output_height) {
        JSAMPLE *next = pixels + stride * decoder->output_scanline;
        if (inks != NULL) {
            if (jpeg_read_scanlines(decoder, inks, 1) == 1)
                rgb_of_cmyk(inks[0], next, decoder->output_width);
            continue;
        }
        JDIMENSION count = decoder->output_height - decoder->output_scanline;
        if (count > ROWS)
            count = ROWS;
        for (JDIMENSION row = 0; row < count; row++)
            rows[row] = next + stride * row;
        jpeg_read_scanlines(decoder, rows, count);
    }
}

// Decodes `length` bytes into height * width * samples bytes at `pixels`: grey for one sample, RGB for three.
// Returns 0; or 1, and why in `message`, which has room for JMSG_LENGTH_MAX (200) bytes.
int ty_jpeg_decode(const unsigned char *bytes, size_t length, int colours, unsigned width, unsigned height,
                   int samples, unsigned char *pixels, char *message) {
    struct jpeg_decompress_struct decoder;
    struct judge judge;
    memset(&decoder, 0, sizeof decoder);
    decoder.err = jpeg_std_error(&judge.manager);
    judge.manager.error_exit = fail;
    judge.manager.emit_message = weigh;
    judge.manager.output_message = say_nothing;
    judge.message = message;
    if (setjmp(judge.give_up)) {
        jpeg_destroy_decompress(&decoder);
        return 1;
    }
    jpeg_create_decompress(&decoder);
    jpeg_mem_src(&decoder, bytes, (unsigned long)length);
    jpeg_read_header(&decoder, TRUE);
    if (colours == RGB && decoder.num_components == 3)
        decoder.jpeg_color_space = JCS_RGB;
    else if (colours == YCBCR && decoder.num_components == 3)
        decoder.jpeg_color_space = JCS_YCbCr;
    decoder.out_color_space = samples == 1 ? JCS_GRAYSCALE : decoder.num_components == 4 ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(&decoder);
    // The caller has read the same header; a buffer is not written to on trust alone.
    if (decoder.output_width != width || decoder.output_height != height || decoder.data_precision != 8)
        ERREXIT(&decoder, JERR_BAD_STATE);
    read_rows(&decoder, pixels, (size_t)width * (size_t)samples);
    jpeg_destroy_decompress(&decoder);
    return 0;
}
