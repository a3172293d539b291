/* test_lines.c - lines of plain and gzip files, their numbers and offsets; UTF-8. */
#include "io/scratch.h"

#include <zlib.h>

#include "io/lines.h"

static void gz_write(const char *path, const char *bytes, size_t count)
{
    gzFile stream = gzopen(path, "wb");

    assert_non_null(stream);
    assert_int_equal(gzwrite(stream, bytes, (unsigned)count), (int)count);
    assert_int_equal(gzclose(stream), Z_OK);
}

static void assert_next(csp_lines *lines, const char *want)
{
    char *line;
    int64_t bytes;

    assert_ok(csp_lines_next(lines, &line, &bytes));
    if (want == NULL) {
        assert_null(line);
        return;
    }
    assert_non_null(line);
    assert_string_equal(line, want);
    assert_int_equal(bytes, strlen(want));
}

static void check_three_lines(const char *path)
{
    csp_lines *lines;

    assert_ok(csp_lines_open(path, &lines));
    assert_string_equal(csp_lines_path(lines), path);
    assert_int_equal(csp_lines_number(lines), 0);
    assert_next(lines, "one");
    assert_int_equal(csp_lines_number(lines), 1);
    assert_next(lines, "");
    assert_next(lines, "three");
    assert_int_equal(csp_lines_number(lines), 3);
    assert_next(lines, NULL);
    assert_next(lines, NULL);
    assert_int_equal(csp_lines_number(lines), 3);
    csp_lines_close(lines);
}

static void every_line_end_gives_the_same_lines(void **state)
{
    static const char *const texts[] = { "one\n\nthree", "one\n\nthree\n", "one\r\n\r\nthree\r\n",
                                         "\xEF\xBB\xBFone\n\nthree\n" };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        scratch_text(scratch_path("plain"), texts[i]);
        check_three_lines(scratch_path("plain"));
        gz_write(scratch_path("packed"), texts[i], strlen(texts[i]));
        check_three_lines(scratch_path("packed"));
    }
}

static void short_files_are_read_whole(void **state)
{
    csp_lines *lines;

    (void)state;
    scratch_text(scratch_path("short"), "");
    assert_ok(csp_lines_open(scratch_path("short"), &lines));
    assert_next(lines, NULL);
    csp_lines_close(lines);
    scratch_text(scratch_path("short"), "a");
    assert_ok(csp_lines_open(scratch_path("short"), &lines));
    assert_next(lines, "a");
    assert_next(lines, NULL);
    csp_lines_close(lines);
    scratch_text(scratch_path("short"), "\xEF\xBB\xBF");
    assert_ok(csp_lines_open(scratch_path("short"), &lines));
    assert_next(lines, NULL);
    csp_lines_close(lines);
    csp_lines_close(NULL);
}

static void a_line_may_hold_nul_bytes(void **state)
{
    csp_lines *lines;
    char *line;
    int64_t bytes;

    (void)state;
    scratch_write(scratch_path("nul"), "a\0b\nc", 5);
    assert_ok(csp_lines_open(scratch_path("nul"), &lines));
    assert_ok(csp_lines_next(lines, &line, &bytes));
    assert_int_equal(bytes, 3);
    assert_memory_equal(line, "a\0b", 4);
    csp_lines_close(lines);
}

/* Line i has (i * 7919) % 3001 letters, every hundredth 400,000: longer than the first buffer. */
static char *many_lines(int count, size_t *bytes)
{
    char *text = malloc((size_t)count * 8000 + 400001);
    size_t used = 0;

    assert_non_null(text);
    for (int i = 0; i < count; i++) {
        const size_t length = i % 100 == 99 ? 400000 : (size_t)i * 7919 % 3001;

        memset(text + used, 'a' + i % 26, length);
        used += length;
        text[used++] = '\n';
    }
    *bytes = used;
    return text;
}

static void check_many_lines(csp_lines *lines, const char *text)
{
    char *line;
    int64_t bytes;

    for (size_t at = 0;;) {
        const char *end;

        assert_int_equal(csp_lines_tell(lines), at);
        assert_ok(csp_lines_next(lines, &line, &bytes));
        if (line == NULL) {
            return;
        }
        end = strchr(text + at, '\n');
        assert_non_null(end);
        assert_int_equal(bytes, end - (text + at));
        assert_memory_equal(line, text + at, (size_t)bytes);
        at = (size_t)(end - text) + 1;
    }
}

static void long_files_are_read_line_by_line(void **state)
{
    size_t bytes;
    char *text = many_lines(300, &bytes);

    (void)state;
    text = realloc(text, bytes + 1);
    text[bytes] = '\0';
    scratch_write(scratch_path("many"), text, bytes);
    gz_write(scratch_path("many.gz"), text, bytes);
    for (int packed = 0; packed < 2; packed++) {
        csp_lines *lines;

        assert_ok(csp_lines_open(scratch_path(packed ? "many.gz" : "many"), &lines));
        check_many_lines(lines, text);
        assert_int_equal(csp_lines_number(lines), 300);
        csp_lines_close(lines);
    }
    free(text);
}

static csp_status read_all(void *context)
{
    csp_lines *lines;
    csp_status status;
    char *line;
    int64_t bytes;

    CSP_TRY(csp_lines_open(context, &lines));
    do {
        status = csp_lines_next(lines, &line, &bytes);
    } while (status == CSP_OK && line != NULL);
    csp_lines_close(lines);
    return status;
}

static void a_damaged_gzip_file_is_an_error_with_its_line(void **state)
{
    size_t bytes, packed_bytes;
    char *text = many_lines(90, &bytes), *packed, path[512];

    (void)state;
    snprintf(path, sizeof(path), "%s", scratch_path("damaged.gz"));
    gz_write(path, text, bytes);
    packed = scratch_read(path, &packed_bytes);
    for (size_t cut = packed_bytes - 1; cut >= 2; cut--) {
        assert_int_equal(truncate(path, (off_t)cut), 0);
        assert_int_equal(read_all(path), CSP_ERR_FORMAT);
        assert_error_has("damaged.gz:");
    }
    packed[packed_bytes / 2] ^= 0x55;
    scratch_write(path, packed, packed_bytes);
    assert_int_equal(read_all(path), CSP_ERR_FORMAT);
    assert_error_has("damaged gzip data");
    free(packed);
    free(text);
}

/* Two members of a gzip file, and what stands behind them. */
static void write_members(const char *path, const char *behind, size_t count, size_t *second)
{
    size_t one, two;
    char *members[2], *all;

    gz_write(path, "one\n\n", 5);
    members[0] = scratch_read(path, &one);
    gz_write(path, "three", 5);
    members[1] = scratch_read(path, &two);
    all = malloc(one + two + count);
    assert_non_null(all);
    memcpy(all, members[0], one);
    memcpy(all + one, members[1], two);
    memcpy(all + one + two, behind, count);
    scratch_write(path, all, one + two + count);
    *second = one;
    free(all);
    free(members[0]);
    free(members[1]);
}

static void what_follows_gzip_data_is_more_of_it_or_an_error(void **state)
{
    static const char zeros[600] = { 0 };
    static const struct {
        const char *text;
        size_t bytes;
    } wrong[] = { { "four\n", 5 }, { "\n", 1 }, { "\0\0x", 3 }, { "\x1F", 1 }, { "\x1F\x8A", 2 } };
    char path[512], *all;
    size_t second, bytes;

    (void)state;
    snprintf(path, sizeof(path), "%s", scratch_path("members.gz"));
    write_members(path, "", 0, &second);
    check_three_lines(path);
    write_members(path, zeros, sizeof(zeros), &second);
    check_three_lines(path);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        write_members(path, wrong[i].text, wrong[i].bytes, &second);
        assert_int_equal(read_all(path), CSP_ERR_FORMAT);
        assert_error_has("members.gz:3: ");
    }
    for (int at = 0; at < 3; at++) { /* magic and method of the second member */
        write_members(path, "", 0, &second);
        all = scratch_read(path, &bytes);
        all[second + (size_t)at] ^= 0x10;
        scratch_write(path, all, bytes);
        assert_int_equal(read_all(path), CSP_ERR_FORMAT);
        assert_error_has("members.gz:3: ");
        free(all);
    }
}

static void other_compressions_are_named(void **state)
{
    char path[512];

    (void)state;
    snprintf(path, sizeof(path), "%s", scratch_path("packed"));
    scratch_write(path, "\x28\xB5\x2F\xFD\x04\x00", 6);
    assert_int_equal(read_all(path), CSP_ERR_FORMAT);
    assert_error_has("packed: compressed by zstd");
    scratch_write(path, "BZh91AY&SY....", 14);
    assert_int_equal(read_all(path), CSP_ERR_FORMAT);
    assert_error_has("packed: compressed by bzip2");
}

static void files_that_cannot_be_opened_are_named(void **state)
{
    csp_lines *lines = NULL;

    (void)state;
    assert_int_equal(csp_lines_open(scratch_path("absent"), &lines), CSP_ERR_IO);
    assert_error_has("absent: cannot open: No such file");
    assert_int_equal(csp_lines_open(scratch_dir, &lines), CSP_ERR_IO);
    assert_error_has("is a folder");
    assert_null(lines);
}

static void every_failure_has_a_message(void **state)
{
    size_t bytes;
    char *text = many_lines(100, &bytes), path[512];

    (void)state;
    snprintf(path, sizeof(path), "%s", scratch_path("faults"));
    scratch_write(path, text, bytes);
    free(text);
    assert_true(walk_faults(read_all, NULL, path) >= 4);
}

static void utf8_is_told_from_what_only_looks_like_it(void **state)
{
    static const struct {
        const char *text;
        int64_t bad_at; /* -1: valid */
    } cases[] = {
        { "", -1 },
        { "plain ASCII, longer than eight", -1 },
        { "gr\xC3\xBC\xC3\x9F \xE2\x82\xAC \xF0\x9F\x98\x80", -1 },
        { "\xED\x9F\xBF\xEE\x80\x80\xF4\x8F\xBF\xBF\xC2\x80\xE0\xA0\x80\xF0\x90\x80\x80", -1 },
        { "12345678\x80", 8 },     /* a lone continuation byte */
        { "abc\xC3", 3 },          /* cut short */
        { "\xE2\x82", 0 },         /* cut short */
        { "a\xF0\x9F\x98", 1 },    /* cut short */
        { "\xC0\x80", 0 },         /* overlong NUL */
        { "\xC1\xBF", 0 },         /* overlong */
        { "\xE0\x9F\xBF", 0 },     /* overlong */
        { "\xF0\x8F\xBF\xBF", 0 }, /* overlong */
        { "12\xED\xA0\x80", 2 },   /* a surrogate */
        { "\xF4\x90\x80\x80", 0 }, /* above U+10FFFF */
        { "\xF5\x80\x80\x80", 0 }, /* above U+10FFFF */
        { "\xFF", 0 },
        { "\xE2\x28\xA1", 0 },
        { "\xE2\x82\x28", 0 },
        { "caf\xE9 in Latin-1", 3 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int64_t at = -1;
        const bool valid = csp_utf8_is_valid(cases[i].text, (int64_t)strlen(cases[i].text), &at);

        assert_int_equal(valid, cases[i].bad_at < 0);
        assert_int_equal(at, cases[i].bad_at);
        assert_int_equal(csp_utf8_is_valid(cases[i].text, (int64_t)strlen(cases[i].text), NULL),
                         valid);
    }
}

static void real_collections_are_utf8(void **state)
{
    csp_lines *lines;
    char *line;
    int64_t bytes;

    (void)state;
    assert_ok(csp_lines_open(shared_path("cranfield/corpus.jsonl"), &lines));
    for (;;) {
        assert_ok(csp_lines_next(lines, &line, &bytes));
        if (line == NULL) {
            break;
        }
        assert_true(csp_utf8_is_valid(line, bytes, NULL));
    }
    assert_int_equal(csp_lines_number(lines), 1400);
    csp_lines_close(lines);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_line_end_gives_the_same_lines),
        cmocka_unit_test(short_files_are_read_whole),
        cmocka_unit_test(a_line_may_hold_nul_bytes),
        cmocka_unit_test(long_files_are_read_line_by_line),
        cmocka_unit_test(a_damaged_gzip_file_is_an_error_with_its_line),
        cmocka_unit_test(what_follows_gzip_data_is_more_of_it_or_an_error),
        cmocka_unit_test(other_compressions_are_named),
        cmocka_unit_test(files_that_cannot_be_opened_are_named),
        cmocka_unit_test(every_failure_has_a_message),
        cmocka_unit_test(utf8_is_told_from_what_only_looks_like_it),
        cmocka_unit_test(real_collections_are_utf8),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
