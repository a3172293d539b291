/*
 * model_args.h - the part of a command line that opens a model to encode with: encode and search
 * share its option rows and what they do.
 *
 * The model's text contract is obeyed; each option that overrides a part of it is explicit, and is
 * said aloud, because vectors of two contracts do not fit together.
 */
#pragma once

#include "cli/args.h"
#include "cli/option_rows.h"
#include "data/tokenizer.h"
#include "eval/encode.h"
#include "model/snapshot.h"

/* Rows to put into a command's table; all optional but --model, which the command lists itself. */
#define CSP_MODEL_OPTIONS                                                                          \
    {                                                                                              \
        .name = "base",                                                                            \
        .kind = CSP_OPTION_TEXT,                                                                   \
        .value = "DIR",                                                                            \
        .help =                                                                                    \
            "of a LoRA checkpoint: the folder of its base model, where it is not the one recorded" \
    },                                                                                             \
        CSP_OPTION_ROW_DEVICE, CSP_OPTION_ROW_PRECISION, CSP_OPTION_ROW_THREADS,                   \
        { .name = "micro-batch-tokens",                                                            \
          .kind = CSP_OPTION_I64,                                                                  \
          .value = "N",                                                                            \
          .standard = "0",                                                                         \
          .min = 0,                                                                                \
          .max = 1e9,                                                                              \
          .help = "token rows computed at once; 0 = 4096" },                                       \
        { .name = "top-k",                                                                         \
          .kind = CSP_OPTION_I64,                                                                  \
          .value = "N",                                                                            \
          .standard = "-1",                                                                        \
          .min = -1,                                                                               \
          .max = 2147483647,                                                                       \
          .help = "strongest terms kept; 0 = all, -1 = as the contract says" },                    \
        { .name = "variant",                                                                       \
          .kind = CSP_OPTION_ENUM,                                                                 \
          .value = "causal|echo|bi",                                                               \
          .help = "override the contract: how a token sees its text" },                            \
        { .name = "max-len",                                                                       \
          .kind = CSP_OPTION_I64,                                                                  \
          .value = "N",                                                                            \
          .min = 1,                                                                                \
          .max = 262144,                                                                           \
          .help = "override the contract: longest text in tokens" },                               \
        { .name = "prefix",                                                                        \
          .kind = CSP_OPTION_TEXT,                                                                 \
          .value = "TEXT",                                                                         \
          .help = "override the contract: what is put before every text" },                        \
    {                                                                                              \
        .name = "strict", .kind = CSP_OPTION_FLAG, .help = "empty and over-long texts are errors"  \
    }

/* Opens what --device and --threads name, and chooses the type that --precision asks for. */
CSP_CHECKED csp_status csp_device_open(const csp_arguments *args, csp_backend **be,
                                       csp_dtype *dtype);

/* Everything needed to encode one side. */
typedef struct csp_inference {
    csp_backend *be;
    csp_opened opened;
    csp_tokenizer *tokenizer;
    csp_encoder *encoder;
    csp_quant quant; /* of what the encoder gives                                          */
    char *meta; /* JSON text: contract, model hash, vocabulary, side, cut; stored with vectors */
} csp_inference;

/*
 * Opens --model under the options above for one side.
 *
 *   quant   in   none, or round or ceil: an impact in place of each weight. Without a scale, the
 *                contract's; another one is said aloud as an override
 *
 * Owner: csp_inference_close. Errors: those of csp_snapshot_open, csp_tokenizer_from_text.
 */
CSP_CHECKED csp_status csp_inference_open(const csp_arguments *args, csp_side side, csp_quant quant,
                                          csp_inference *out);
void csp_inference_close(csp_inference *inference);
