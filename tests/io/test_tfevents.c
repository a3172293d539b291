/* test_tfevents.c - event files, taken apart here with a CRC of its own. */
#include "io/scratch.h"

#include "io/tfevents.h"

/* Bit by bit, so that it shares no table with the writer. */
static uint32_t crc32c(const unsigned char *bytes, size_t count)
{
    uint32_t crc = 0xFFFFFFFFu;

    for (size_t i = 0; i < count; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (0x82F63B78u & (0u - (crc & 1)));
        }
    }
    return ~crc;
}

static uint32_t mask(uint32_t crc)
{
    return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

/* Checks the frame at bytes and returns its data; *count is the data's length. */
static const unsigned char *check_frame(const unsigned char *bytes, size_t left, size_t *count)
{
    uint64_t length;
    uint32_t crc;

    assert_true(left >= 16);
    memcpy(&length, bytes, 8);
    memcpy(&crc, bytes + 8, 4);
    assert_int_equal(crc, mask(crc32c(bytes, 8)));
    assert_true(length <= left - 16);
    memcpy(&crc, bytes + 12 + length, 4);
    assert_int_equal(crc, mask(crc32c(bytes + 12, length)));
    *count = (size_t)length;
    return bytes + 12;
}

static void the_check_has_the_published_value(void **state)
{
    (void)state;
    assert_int_equal(crc32c((const unsigned char *)"123456789", 9), 0xE3069283u);
}

static const char *only_file(const char *dir)
{
    static char path[1024];
    DIR *open = opendir(dir);

    assert_non_null(open);
    path[0] = '\0';
    for (struct dirent *entry; (entry = readdir(open)) != NULL;) {
        if (entry->d_name[0] != '.') {
            assert_int_equal(path[0], '\0');
            assert_int_equal(strncmp(entry->d_name, "events.out.tfevents.", 20), 0);
            snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name);
        }
    }
    closedir(open);
    return path;
}

static void records_are_as_the_format_says(void **state)
{
    static const unsigned char first[] = "\x1A\x0D"
                                         "brain.Event:2";
    static const unsigned char second[] =
        "\x10\x03\x2A\x0A\x0A\x08\x0A\x01\x61\x15\x00\x00\x80\x3F";
    static const unsigned char third[] = "\x10\xAC\x02\x2A\x13\x0A\x11\x0A\x0A"
                                         "train/loss\x15\x00\x00\x00\xC0";
    const struct {
        const unsigned char *tail;
        size_t bytes;
    } want[] = { { first, sizeof(first) - 1 },
                 { second, sizeof(second) - 1 },
                 { third, sizeof(third) - 1 } };
    csp_tfevents *events;
    unsigned char *bytes;
    size_t count, at = 0;
    char dir[512];

    (void)state;
    snprintf(dir, sizeof(dir), "%s", scratch_path("tb"));
    assert_int_equal(mkdir(dir, 0777), 0);
    assert_ok(csp_tfevents_create(dir, &events));
    assert_ok(csp_tfevents_scalar(events, 3, "a", 1.0));
    assert_ok(csp_tfevents_scalar(events, 300, "train/loss", -2.0));
    /* Each call is in the file when it returns. */
    bytes = (unsigned char *)scratch_read(only_file(dir), &count);
    for (int i = 0; i < 3; i++) {
        size_t length;
        const unsigned char *data = check_frame(bytes + at, count - at, &length);
        double wall_time;

        assert_int_equal(length, 9 + want[i].bytes);
        assert_int_equal(data[0], 0x09);
        memcpy(&wall_time, data + 1, 8);
        assert_true(fabs(wall_time - (double)time(NULL)) < 60.0);
        assert_memory_equal(data + 9, want[i].tail, want[i].bytes);
        at += 16 + length;
    }
    assert_int_equal(at, count);
    free(bytes);
    assert_ok(csp_tfevents_flush(events));
    csp_tfevents_close(events);
    csp_tfevents_close(NULL);
}

static void files_of_one_second_do_not_meet(void **state)
{
    csp_tfevents *one, *two;
    char dir[512];

    (void)state;
    snprintf(dir, sizeof(dir), "%s", scratch_path("tb2"));
    assert_int_equal(mkdir(dir, 0777), 0);
    assert_ok(csp_tfevents_create(dir, &one));
    assert_ok(csp_tfevents_create(dir, &two));
    csp_tfevents_close(one);
    csp_tfevents_close(two);
    assert_int_equal(scratch_count(dir, "events.out.tfevents."), 2);
}

static void bad_tags_and_folders_are_refused(void **state)
{
    char tag[1002];
    csp_tfevents *events = NULL;
    char dir[512];

    (void)state;
    assert_int_equal(csp_tfevents_create(scratch_path("absent"), &events), CSP_ERR_IO);
    assert_error_has("No such file");
    assert_null(events);
    snprintf(dir, sizeof(dir), "%s", scratch_path("tb3"));
    assert_int_equal(mkdir(dir, 0777), 0);
    assert_ok(csp_tfevents_create(dir, &events));
    memset(tag, 'x', 1001);
    tag[1001] = '\0';
    assert_int_equal(csp_tfevents_scalar(events, 1, tag, 1.0), CSP_ERR_ARGUMENT);
    assert_ok(csp_tfevents_scalar(events, INT64_MAX, tag + 1, NAN));
    assert_int_equal(csp_tfevents_scalar(events, 1, "", 1.0), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_tfevents_scalar(events, 1, "\xFF", 1.0), CSP_ERR_ARGUMENT);
    csp_tfevents_close(events);
}

static csp_status write_some(void *context)
{
    csp_tfevents *events = NULL;
    csp_status status;

    CSP_TRY(csp_tfevents_create(context, &events));
    CSP_TRY_GOTO(csp_tfevents_scalar(events, 1, "a", 1.0));
    CSP_TRY_GOTO(csp_tfevents_flush(events));
fail:
    csp_tfevents_close(events);
    return status;
}

static void every_failure_has_a_message(void **state)
{
    char dir[512];

    (void)state;
    snprintf(dir, sizeof(dir), "%s", scratch_path("tb4"));
    assert_int_equal(mkdir(dir, 0777), 0);
    assert_true(walk_faults(write_some, NULL, dir) >= 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_check_has_the_published_value),
        cmocka_unit_test(records_are_as_the_format_says),
        cmocka_unit_test(files_of_one_second_do_not_meet),
        cmocka_unit_test(bad_tags_and_folders_are_refused),
        cmocka_unit_test(every_failure_has_a_message),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
