/* cmd_tokenize.c - csplade tokenize: texts to token ids, and training of a tokenizer. */
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/tokenizer_args.h"
#include "core/log.h"
#include "data/corpus.h"
#include "io/file.h"
#include "io/lines.h"

static const csp_option options[] = {
    { .name = "model",
      .letter = 'm',
      .kind = CSP_OPTION_TEXT,
      .value = "PATH",
      .help = "folder with tokenizer.json, the file itself, or a checkpoint" },
    { .name = "special",
      .kind = CSP_OPTION_FLAG,
      .help = "apply the tokenizer's own post-processor (its BOS, EOS)" },
    { .name = "tokens",
      .kind = CSP_OPTION_FLAG,
      .help = "print the tokens as tokenizer.json writes them, in place of ids" },
    { .name = "train",
      .kind = CSP_OPTION_FLAG,
      .help = "make a tokenizer from the texts of FILES" },
    { .name = "vocab-size",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .min = 258,
      .max = 1 << 24,
      .help = "with --train: number of ids, the 256 bytes and two special tokens included" },
    { .name = "min-frequency",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "2",
      .min = 1,
      .max = 1e9,
      .help = "with --train: a pair seen less often is not merged" },
    { .name = "lowercase", .kind = CSP_OPTION_FLAG, .help = "with --train: lower case first" },
    { .name = "add-bos",
      .kind = CSP_OPTION_FLAG,
      .help = "with --train: its post-processor puts <|begin_of_text|> in front" },
    { .name = "output",
      .letter = 'o',
      .kind = CSP_OPTION_TEXT,
      .value = "DIR",
      .help = "with --train: folder that gets tokenizer.json" },
};

/* The texts of several files, one after the other, for csp_tokenizer_train. */
typedef struct file_texts {
    const csp_arguments *args;
    int next; /* positional argument to open next */
    csp_texts *open;
    int64_t texts;
} file_texts;

static csp_status next_text(void *context, const char **text, int64_t *bytes)
{
    static const csp_texts_options how = { .side = CSP_SIDE_PASSAGE, .without_ids = true };
    file_texts *files = context;
    csp_text_row row = { NULL, NULL, 0 };

    for (;;) {
        if (files->open == NULL) {
            const char *path = csp_args_positional(files->args, files->next);

            if (path == NULL) {
                *text = NULL;
                return CSP_OK;
            }
            CSP_TRY(csp_texts_open(path, &how, &files->open));
            files->next++;
        }
        CSP_TRY(csp_texts_next(files->open, &row));
        if (row.text != NULL) {
            files->texts++;
            *text = row.text;
            *bytes = row.bytes;
            return CSP_OK;
        }
        csp_texts_close(files->open);
        files->open = NULL;
    }
}

static csp_status train(const csp_arguments *args)
{
    file_texts files = { args, 0, NULL, 0 };
    csp_tokenizer_train_options how = {
        .min_frequency = csp_args_i64(args, "min-frequency"),
        .lowercase = csp_args_flag(args, "lowercase"),
        .add_bos = csp_args_flag(args, "add-bos"),
    };
    const char *dir = csp_args_text(args, "output");
    csp_tokenizer *tokenizer = NULL;
    char *path = NULL;
    csp_status status;

    if (!csp_args_given(args, "vocab-size") || dir == NULL ||
        csp_args_positional_count(args) == 0) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "tokenize --train needs --vocab-size N, --output DIR and FILES");
    }
    how.vocab_size = csp_args_i64(args, "vocab-size");
    CSP_TRY(csp_file_make_dirs(dir));
    CSP_TRY(csp_file_join(dir, "tokenizer.json", &path));
    CSP_TRY_GOTO(csp_tokenizer_train(&how, next_text, &files, &tokenizer));
    CSP_TRY_GOTO(csp_tokenizer_save(tokenizer, path));
    csp_log(CSP_LOG_INFO, "tokenize", "%lld ids from %lld texts in %s",
            (long long)csp_tokenizer_vocab_size(tokenizer), (long long)files.texts, path);

fail:
    csp_tokenizer_close(tokenizer);
    csp_texts_close(files.open);
    free(path);
    return status;
}

/* A JSON text: bytes of a token are UTF-8 by the rules of tokenizer.json. */
static void print_json_text(const char *text)
{
    putchar('"');
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0'; at++) {
        if (*at == '"' || *at == '\\') {
            printf("\\%c", *at);
        } else if (*at < 0x20) {
            printf("\\u%04x", *at);
        } else {
            putchar(*at);
        }
    }
    putchar('"');
}

static void print_ids(const csp_tokenizer *tokenizer, const csp_token_list *list, bool tokens)
{
    putchar('[');
    for (int64_t i = 0; i < list->count; i++) {
        const char *token = csp_tokenizer_token(tokenizer, list->ids[i]);

        fputs(i > 0 ? ", " : "", stdout);
        if (tokens) {
            print_json_text(token != NULL ? token : "");
        } else {
            printf("%d", list->ids[i]);
        }
    }
    puts("]");
}

static csp_status tokenize_lines(const csp_arguments *args, const csp_tokenizer *tokenizer,
                                 const char *path)
{
    const bool special = csp_args_flag(args, "special"), tokens = csp_args_flag(args, "tokens");
    csp_token_list list = { NULL, 0, 0 };
    csp_lines *lines = NULL;
    csp_status status;

    CSP_TRY(csp_lines_open(path, &lines));
    for (;;) {
        char *line = NULL;
        int64_t bytes = 0, at = 0;

        CSP_TRY_GOTO(csp_lines_next(lines, &line, &bytes));
        if (line == NULL) {
            break;
        }
        if (!csp_utf8_is_valid(line, bytes, &at)) {
            status = CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: invalid UTF-8 at byte %lld", path,
                              (long long)csp_lines_number(lines), (long long)at + 1);
            goto fail;
        }
        CSP_TRY_GOTO(csp_tokenizer_encode(tokenizer, line, bytes, special, &list));
        print_ids(tokenizer, &list, tokens);
    }

fail:
    csp_lines_close(lines);
    csp_token_list_clear(&list);
    return status;
}

static csp_status run(const csp_arguments *args)
{
    static const char *const training[] = { "vocab-size", "min-frequency", "lowercase", "add-bos",
                                            "output" };
    const int files = csp_args_positional_count(args);
    csp_tokenizer *tokenizer = NULL;
    csp_status status = CSP_OK;

    if (csp_args_flag(args, "train")) {
        if (csp_args_given(args, "model") || csp_args_flag(args, "special") ||
            csp_args_flag(args, "tokens")) {
            return CSP_FAIL(CSP_ERR_CONFIG,
                            "tokenize --train takes neither --model nor --special nor --tokens");
        }
        return train(args);
    }
    for (int i = 0; i < CSP_COUNT(training); i++) {
        if (csp_args_given(args, training[i])) {
            return CSP_FAIL(CSP_ERR_CONFIG, "tokenize: --%s belongs to --train", training[i]);
        }
    }
    if (!csp_args_given(args, "model")) {
        return CSP_FAIL(CSP_ERR_CONFIG, "tokenize: --model PATH is required");
    }
    CSP_TRY(csp_tokenizer_of(csp_args_text(args, "model"), &tokenizer));
    for (int i = 0; i < (files > 0 ? files : 1) && status == CSP_OK; i++) {
        status = tokenize_lines(args, tokenizer, files > 0 ? csp_args_positional(args, i) : "-");
    }
    csp_tokenizer_close(tokenizer);
    return status;
}

const csp_command csp_cmd_tokenize = {
    .name = "tokenize",
    .summary = "token ids of texts, or a new tokenizer from texts",
    .options = options,
    .option_count = CSP_COUNT(options),
    .positional = "[FILES...]",
    .details =
        "Reads a text a line from FILES or stdin and prints one JSON array of ids for each.\n"
        "With --train, FILES are plain text, .jsonl, .tsv (.gz too) or BEIR folders.\n\n"
        "echo \"a starry night\" | csplade tokenize --model models/tiny\n"
        "csplade tokenize --train --vocab-size 8192 --lowercase --output tok corpus.jsonl",
    .run = run,
};
