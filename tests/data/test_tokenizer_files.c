/*
 * test_tokenizer_files.c - tokenizer files that are damaged, contradictory or beyond what csplade
 * does: each is refused with a sentence, and none crashes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <zlib.h>

#include "core/fault.h"
#include "data/tokenizer.h"

/* A whole file around a model, and the parts that tests exchange. */
#define ADDED "\"added_tokens\":[{\"id\":3,\"content\":\"<s>\",\"special\":true}]"
#define NORMALIZER "\"normalizer\":{\"type\":\"NFC\"}"
#define SPLIT                                                                                \
    "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\s+\"},\"behavior\":" \
    "\"Isolated\",\"invert\":false}"
#define POST                                                                                   \
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"      \
    "\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[]," \
    "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[3],\"tokens\":[\"<s>\"]}}}"
#define DECODER "\"decoder\":{\"type\":\"Fuse\"}"
#define VOCAB "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}"
#define MERGES "\"merges\":[\"a b\"]"
#define MODEL "\"model\":{\"type\":\"BPE\"," VOCAB "," MERGES "}"
#define WHOLE "{" ADDED "," NORMALIZER "," SPLIT "," POST "," DECODER "," MODEL "}"

static csp_status open_text(const char *json, csp_tokenizer **out)
{
    return csp_tokenizer_from_text(json, (int64_t)strlen(json), "t.json", out);
}

static void a_small_file_works(void **state)
{
    csp_tokenizer *tokenizer = NULL;
    csp_token_list list = { 0 };

    (void)state;
    assert_int_equal(open_text(WHOLE, &tokenizer), CSP_OK);
    assert_int_equal(csp_tokenizer_vocab_size(tokenizer), 4);
    assert_int_equal(csp_tokenizer_encode(tokenizer, "ab a<s>b", 8, true, &list), CSP_OK);
    assert_int_equal(list.count, 5); /* <s> ab a <s> b: the space has no token */
    assert_int_equal(list.ids[1], 2);
    csp_token_list_clear(&list);
    csp_tokenizer_close(tokenizer);
}

/* Every entry: a file, its status, and a part of the sentence. */
static const struct {
    const char *json;
    csp_status status;
    const char *says;
} refused[] = {
    { "", CSP_ERR_FORMAT, "t.json:" },
    { "[]", CSP_ERR_FORMAT, "t.json is not an object" },
    { "{" ADDED "}", CSP_ERR_FORMAT, "model is missing" },
    { "{\"model\":{\"type\":\"Unigram\"}}", CSP_ERR_UNSUPPORTED, "Unigram" },
    { "{\"modell\":1," MODEL "}", CSP_ERR_UNSUPPORTED, "\"modell\"" },
    { "{\"truncation\":{\"max_length\":5}," MODEL "}", CSP_ERR_UNSUPPORTED, "truncation" },
    { "{\"padding\":{}," MODEL "}", CSP_ERR_UNSUPPORTED, "padding" },
    { "{\"model\":{\"type\":\"BPE\"," MERGES "}}", CSP_ERR_FORMAT, "vocab" },
    { "{\"model\":{\"vocab\":{}," MERGES "}}", CSP_ERR_FORMAT, "vocab" },
    { "{\"model\":{" VOCAB "}}", CSP_ERR_FORMAT, "merges" },
    { "{\"model\":{" VOCAB ",\"merges\":[\"a x\"]}}", CSP_ERR_FORMAT, "merge 0 names \"x\"" },
    { "{\"model\":{" VOCAB ",\"merges\":[\"b a\"]}}", CSP_ERR_FORMAT, "merge 0 names \"ba\"" },
    { "{\"model\":{" VOCAB ",\"merges\":[\"ab\"]}}", CSP_ERR_FORMAT, "merge 0 is neither" },
    { "{\"model\":{" VOCAB ",\"merges\":[\"a b a\"]}}", CSP_ERR_FORMAT, "merge 0 is neither" },
    { "{\"model\":{" VOCAB ",\"merges\":[[\"a\"]]}}", CSP_ERR_FORMAT, "merge 0 is neither" },
    { "{\"model\":{" VOCAB ",\"merges\":[[\"a\",1]]}}", CSP_ERR_FORMAT, "merge 0 is neither" },
    { "{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", CSP_ERR_FORMAT, "id 0 belongs" },
    { "{\"model\":{\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", CSP_ERR_FORMAT, "duplicate" },
    { "{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", CSP_ERR_FORMAT, "\"a\"" },
    { "{\"model\":{\"vocab\":{\"a\":4194304},\"merges\":[]}}", CSP_ERR_FORMAT, "4194303" },
    { "{\"model\":{\"vocab\":{\"a\":1e3},\"merges\":[]}}", CSP_ERR_FORMAT, "\"a\"" },
    { "{\"model\":{\"vocab\":{\"a\":\"0\"},\"merges\":[]}}", CSP_ERR_FORMAT, "\"a\"" },
    { "{\"model\":{\"dropout\":0.1," VOCAB "," MERGES "}}", CSP_ERR_UNSUPPORTED, "dropout" },
    { "{\"model\":{\"dropout\":\"0.1\"," VOCAB "," MERGES "}}", CSP_ERR_UNSUPPORTED, "dropout" },
    { "{\"version\":\"2.0\"," MODEL "}", CSP_ERR_UNSUPPORTED, "\"version\" is not \"1.0\"" },
    { "{\"version\":1.0," MODEL "}", CSP_ERR_UNSUPPORTED, "\"version\" is not \"1.0\"" },
    { "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":"
      "\"B\"}}],"
      "\"special_tokens\":{}}," MODEL "}",
      CSP_ERR_FORMAT, "has sequence \"B\", not A" },
    { "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\"},\"behavior\":"
      "\"Isolated\"}," MODEL "}",
      CSP_ERR_UNSUPPORTED, "an empty pattern" },
    { "{\"model\":{\"end_of_word_suffix\":\"</w>\"," VOCAB "," MERGES "}}", CSP_ERR_UNSUPPORTED,
      "end_of_word_suffix" },
    { "{\"model\":{\"fuse_unk\":1," VOCAB "," MERGES "}}", CSP_ERR_FORMAT, "fuse_unk" },
    { "{\"model\":{\"unk_token\":1," VOCAB "," MERGES "}}", CSP_ERR_FORMAT, "unk_token" },
    { "{\"model\":{\"backoff\":1," VOCAB "," MERGES "}}", CSP_ERR_UNSUPPORTED, "backoff" },
    { "{\"added_tokens\":5," MODEL "}", CSP_ERR_FORMAT, "added_tokens" },
    { "{\"added_tokens\":[5]," MODEL "}", CSP_ERR_FORMAT, "added_tokens" },
    { "{\"added_tokens\":[{\"id\":3}]," MODEL "}", CSP_ERR_FORMAT, "content" },
    { "{\"added_tokens\":[{\"id\":3,\"content\":\"\"}]," MODEL "}", CSP_ERR_FORMAT, "empty" },
    { "{\"added_tokens\":[{\"id\":1,\"content\":\"x\"}]," MODEL "}", CSP_ERR_FORMAT,
      "next free id is 3" },
    { "{\"added_tokens\":[{\"id\":9,\"content\":\"x\"}]," MODEL "}", CSP_ERR_FORMAT,
      "next free id is 3" },
    { "{\"added_tokens\":[{\"id\":3,\"content\":\"a\"}]," MODEL "}", CSP_ERR_FORMAT,
      "the vocabulary says 0" },
    { "{\"added_tokens\":[{\"id\":3,\"content\":\"x\"},{\"id\":3,\"content\":\"x\"}]," MODEL "}",
      CSP_ERR_FORMAT, "twice" },
    { "{\"normalizer\":{\"type\":\"Precompiled\"}," MODEL "}", CSP_ERR_UNSUPPORTED, "Precompiled" },
    { "{\"normalizer\":{\"type\":\"NFC\",\"x\":1}," MODEL "}", CSP_ERR_UNSUPPORTED, "\"x\"" },
    { "{\"normalizer\":[]," MODEL "}", CSP_ERR_FORMAT, "normalizer" },
    { "{\"normalizer\":{\"type\":\"Replace\",\"pattern\":\"a\",\"content\":\"\"}," MODEL "}",
      CSP_ERR_FORMAT, "pattern" },
    { "{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"\"}," MODEL
      "}",
      CSP_ERR_UNSUPPORTED, "empty pattern" },
    { "{\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}," MODEL "}", CSP_ERR_UNSUPPORTED,
      "BertPreTokenizer" },
    { "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},"
      "{\"type\":\"Whitespace\"}]}," MODEL "}",
      CSP_ERR_UNSUPPORTED, "Whitespace behind ByteLevel" },
    { "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Cut\"}"
      "," MODEL "}",
      CSP_ERR_FORMAT, "Cut" },
    { "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a\"},\"behavior\":"
      "\"Removed\"}," MODEL "}",
      CSP_ERR_UNSUPPORTED, "cannot be used" },
    { "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\\\\b\"},\"behavior\":"
      "\"Removed\"}," MODEL "}",
      CSP_ERR_UNSUPPORTED, "\\b" },
    { "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"},\"behavior\":"
      "\"Removed\"}," MODEL "}",
      CSP_ERR_UNSUPPORTED, "intersection" },
    { "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?s:.)\"},\"behavior\":"
      "\"Removed\"}," MODEL "}",
      CSP_ERR_UNSUPPORTED, "group" },
    { "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\\"},\"behavior\":"
      "\"Removed\"}," MODEL "}",
      CSP_ERR_UNSUPPORTED, "backslash" },
    { "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{\"},\"behavior\":"
      "\"Removed\"}," MODEL "}",
      CSP_ERR_UNSUPPORTED, "property" },
    { "{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"__\"}," MODEL "}",
      CSP_ERR_FORMAT, "one character" },
    { "{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"x\"}"
      "," MODEL "}",
      CSP_ERR_FORMAT, "prepend_scheme" },
    { "{\"post_processor\":{\"type\":\"BertProcessing\"}," MODEL "}", CSP_ERR_UNSUPPORTED,
      "BertProcessing" },
    { "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}," MODEL "}",
      CSP_ERR_UNSUPPORTED, "0 sequences" },
    { "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
      "\"x\"}},{\"Sequence\":{}}],\"special_tokens\":{}}," MODEL "}",
      CSP_ERR_FORMAT, "\"x\"" },
    { "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
      "\"x\"}},{\"Sequence\":{}}],\"special_tokens\":{\"x\":{\"ids\":[99]}}}," MODEL "}",
      CSP_ERR_FORMAT, "outside 0..2" },
    { "{\"decoder\":{\"type\":\"WordPiece\"}," MODEL "}", CSP_ERR_UNSUPPORTED, "WordPiece" },
    { "{\"decoder\":{\"type\":\"Strip\",\"content\":\"a\",\"start\":-1,\"stop\":0}," MODEL "}",
      CSP_ERR_FORMAT, "start" },
};

static void every_bad_file_is_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        csp_tokenizer *tokenizer = NULL;
        const csp_status status = open_text(refused[i].json, &tokenizer);

        if (status != refused[i].status || strstr(csp_error_text(), refused[i].says) == NULL) {
            fail_msg("case %zu, %s: status %d, \"%s\" does not say \"%s\"", i, refused[i].json,
                     (int)status, csp_error_text(), refused[i].says);
        }
        assert_null(tokenizer);
    }
}

static void nesting_without_end_is_refused(void **state)
{
    enum { DEPTH = 100 };
    char json[16000] = "{\"normalizer\":";
    csp_tokenizer *tokenizer = NULL;
    size_t used = strlen(json);

    (void)state;
    for (int i = 0; i < DEPTH; i++) {
        used += (size_t)snprintf(json + used, sizeof(json) - used,
                                 "{\"type\":\"Sequence\",\"normalizers\":[");
    }
    used += (size_t)snprintf(json + used, sizeof(json) - used, "{\"type\":\"NFC\"}");
    for (int i = 0; i < DEPTH; i++) {
        used += (size_t)snprintf(json + used, sizeof(json) - used, "]}");
    }
    (void)snprintf(json + used, sizeof(json) - used, "," MODEL "}");
    assert_int_equal(open_text(json, &tokenizer), CSP_ERR_UNSUPPORTED);
}

static void a_file_cut_anywhere_is_refused(void **state)
{
    (void)state;
    for (size_t n = 0; n < strlen(WHOLE); n++) {
        csp_tokenizer *tokenizer = NULL;

        assert_int_equal(csp_tokenizer_from_text(WHOLE, (int64_t)n, "t.json", &tokenizer),
                         CSP_ERR_FORMAT);
        assert_null(tokenizer);
    }
}

/* A flipped bit may leave a good file; whatever opens must encode and decode. */
static void a_file_with_a_flipped_bit_is_refused_or_works(void **state)
{
    csp_token_list list = { 0 };
    size_t works = 0, not = 0;

    (void)state;
    for (size_t bit = 0; bit < 8 * strlen(WHOLE); bit++) {
        char json[] = WHOLE;
        csp_tokenizer *tokenizer = NULL;
        char *text;
        int64_t bytes;

        json[bit / 8] = (char)(json[bit / 8] ^ (1 << bit % 8));
        if (csp_tokenizer_from_text(json, (int64_t)sizeof(json) - 1, "t.json", &tokenizer) !=
            CSP_OK) {
            assert_true(csp_error_text()[0] != '\0');
            not ++;
            continue;
        }
        works++;
        assert_int_equal(csp_tokenizer_encode(tokenizer, "ab <s> ba c", 11, true, &list), CSP_OK);
        assert_int_equal(csp_tokenizer_decode(tokenizer, list.ids, list.count, &text, &bytes),
                         CSP_OK);
        free(text);
        csp_tokenizer_close(tokenizer);
    }
    assert_true(works > 0 && not > works);
    csp_token_list_clear(&list);
}

static csp_status use_once(csp_token_list *list)
{
    static const char text[] = "ab <s> ba \xC3\xA9 e\xCC\x81 c";
    csp_tokenizer *tokenizer = NULL;
    char *decoded;
    int64_t bytes;
    csp_status status = open_text(WHOLE, &tokenizer);

    if (status == CSP_OK) {
        status = csp_tokenizer_encode(tokenizer, text, (int64_t)sizeof(text) - 1, true, list);
    }
    if (status == CSP_OK) {
        status = csp_tokenizer_decode(tokenizer, list->ids, list->count, &decoded, &bytes);
        if (status == CSP_OK) {
            free(decoded);
        }
    }
    csp_tokenizer_close(tokenizer);
    return status;
}

static void every_allocation_may_fail(void **state)
{
    csp_status status = CSP_ERR_MEMORY;
    long n = 0;

    (void)state;
    while (status != CSP_OK) {
        csp_token_list list = { 0 };

        csp_fault_arm(++n);
        status = use_once(&list);
        csp_fault_arm(0);
        assert_true(status == CSP_OK || status == CSP_ERR_MEMORY);
        csp_token_list_clear(&list);
        assert_true(n < 1000);
    }
    assert_true(n > 30);
}

static void an_unknown_token_that_is_not_there_is_told_when_needed(void **state)
{
    csp_tokenizer *tokenizer = NULL;
    csp_token_list list = { 0 };

    (void)state;
    assert_int_equal(
        open_text("{\"model\":{\"unk_token\":\"<u>\"," VOCAB "," MERGES "}}", &tokenizer), CSP_OK);
    assert_int_equal(csp_tokenizer_encode(tokenizer, "ab", 2, false, &list), CSP_OK);
    assert_int_equal(csp_tokenizer_encode(tokenizer, "abc", 3, false, &list), CSP_ERR_DATA);
    assert_non_null(strstr(csp_error_text(), "<u>"));
    csp_token_list_clear(&list);
    csp_tokenizer_close(tokenizer);
}

/* Forty steps that double a text: a byte would become a terabyte. */
static void steps_that_multiply_a_text_are_stopped(void **state)
{
    static const char step[] =
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aa\"}";
    char json[8192], steps[40 * (sizeof(step) + 1)];
    csp_tokenizer *tokenizer = NULL;
    csp_token_list list = { 0 };
    size_t used = 0;

    (void)state;
    for (int i = 0; i < 40; i++) {
        used +=
            (size_t)snprintf(steps + used, sizeof(steps) - used, "%s%s", i > 0 ? "," : "", step);
    }
    for (int decodes = 0; decodes < 2; decodes++) {
        const int32_t id = 0;
        csp_status status;
        char *text;
        int64_t bytes;

        (void)snprintf(json, sizeof(json), "{\"%s\":{\"type\":\"Sequence\",\"%s\":[%s]}," MODEL "}",
                       decodes ? "decoder" : "normalizer", decodes ? "decoders" : "normalizers",
                       steps);
        assert_int_equal(open_text(json, &tokenizer), CSP_OK);
        status = decodes ? csp_tokenizer_decode(tokenizer, &id, 1, &text, &bytes)
                         : csp_tokenizer_encode(tokenizer, "a", 1, false, &list);
        assert_int_equal(status, CSP_ERR_DATA);
        assert_non_null(strstr(csp_error_text(), "bytes of a text of 1"));
        csp_tokenizer_close(tokenizer);
    }
    csp_token_list_clear(&list);
}

static void write_file(const char *path, const void *bytes, size_t count)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static void a_folder_a_file_and_a_compressed_file_open_alike(void **state)
{
    char dir[] = "/tmp/csplade-tokenizer-XXXXXX";
    char plain[100], packed[100];
    csp_tokenizer *tokenizer = NULL;
    gzFile gz;

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(plain, sizeof(plain), "%s/tokenizer.json", dir);
    (void)snprintf(packed, sizeof(packed), "%s/tokenizer.json.gz", dir);
    assert_int_equal(csp_tokenizer_open(dir, &tokenizer), CSP_ERR_IO);
    write_file(plain, WHOLE, strlen(WHOLE));
    gz = gzopen(packed, "wb");
    assert_non_null(gz);
    assert_int_equal(gzwrite(gz, WHOLE, (unsigned)strlen(WHOLE)), (int)strlen(WHOLE));
    assert_int_equal(gzclose(gz), Z_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(csp_tokenizer_open(i == 0   ? dir
                                            : i == 1 ? plain
                                                     : packed,
                                            &tokenizer),
                         CSP_OK);
        assert_int_equal(csp_tokenizer_id(tokenizer, "ab"), 2);
        csp_tokenizer_close(tokenizer);
        tokenizer = NULL;
    }
    write_file(packed, "\x1F\x8B\x08junk", 7);
    assert_int_equal(csp_tokenizer_open(packed, &tokenizer), CSP_ERR_FORMAT);
    assert_null(tokenizer);
    (void)unlink(plain);
    (void)unlink(packed);
    (void)rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_small_file_works),
        cmocka_unit_test(every_bad_file_is_refused_by_name),
        cmocka_unit_test(nesting_without_end_is_refused),
        cmocka_unit_test(steps_that_multiply_a_text_are_stopped),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(a_file_with_a_flipped_bit_is_refused_or_works),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(an_unknown_token_that_is_not_there_is_told_when_needed),
        cmocka_unit_test(a_folder_a_file_and_a_compressed_file_open_alike),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
