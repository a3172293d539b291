/* test_digest.c - the digest of pieces is that of the whole, and the one of other tools. */
#include "scratch.h"

#include "io/digest.h"

static void digest_of(const char *bytes, int64_t count, int64_t piece, char *text)
{
    csp_digest *digest;

    assert_ok(csp_digest_create(&digest));
    for (int64_t at = 0; at < count; at += piece) {
        csp_digest_add(digest, bytes + at, count - at < piece ? count - at : piece);
    }
    csp_digest_say(digest, text);
    csp_digest_destroy(digest);
}

static void pieces_do_not_matter_and_contents_do(void **state)
{
    char bytes[5000], whole[CSP_DIGEST_TEXT_BYTES], text[CSP_DIGEST_TEXT_BYTES];

    (void)state;
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (char)(i * 7 + i / 256);
    }
    digest_of(bytes, sizeof(bytes), sizeof(bytes), whole);
    assert_int_equal(strlen(whole), CSP_DIGEST_TEXT_BYTES - 1);
    for (int64_t piece = 1; piece < 2000; piece += 333) {
        digest_of(bytes, sizeof(bytes), piece, text);
        assert_string_equal(text, whole);
    }
    bytes[2500] ^= 1;
    digest_of(bytes, sizeof(bytes), sizeof(bytes), text);
    assert_string_not_equal(text, whole);
    digest_of(bytes, sizeof(bytes) - 1, sizeof(bytes), text);
    assert_string_not_equal(text, whole);
}

static void the_digest_is_what_xxh128sum_prints(void **state)
{
    char text[CSP_DIGEST_TEXT_BYTES];

    (void)state;
    digest_of("", 0, 1, text);
    assert_string_equal(text, "99aa06d3014798d86001c324468d497f");
    digest_of("abc", 3, 2, text);
    assert_string_equal(text, "06b05ab6733a618578af5f94892f3950");
    csp_digest_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_do_not_matter_and_contents_do),
        cmocka_unit_test(the_digest_is_what_xxh128sum_prints),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
