/*
 * test_hdf5_text.c - text attributes: of the type that h5py reads as str, the same bytes each time,
 * and those of fixed length that earlier files have are read too.
 */
#include "scratch.h"

#include "io/hdf5_file.h"

static const char *const texts[] = { "", "a", "\xC3\xBC\xE2\x82\xAC", "{\"key\": \"value\"}" };

static void write_texts(const char *path, int64_t long_bytes)
{
    char *text = malloc((size_t)long_bytes + 1);
    csp_hdf5 *file;
    char key[8];

    assert_non_null(text);
    memset(text, 'x', (size_t)long_bytes);
    text[long_bytes] = '\0';
    assert_ok(csp_hdf5_create(path, &file));
    for (int i = 0; i < 4; i++) {
        snprintf(key, sizeof(key), "t%d", i);
        assert_ok(csp_hdf5_set_text(file, i % 2 == 0 ? "/" : "/group", key, texts[i]));
    }
    assert_ok(csp_hdf5_set_text(file, "/", "long", text));
    assert_ok(csp_hdf5_set_text(file, "/", "t0", texts[0])); /* replaced */
    assert_ok(csp_hdf5_commit(file));
    free(text);
}

static void texts_are_strings_of_any_length(void **state)
{
    csp_hdf5 *file;
    char *text;
    char key[8];

    (void)state;
    write_texts(scratch_path("t.h5"), 1 << 20);
    assert_ok(csp_hdf5_open(scratch_path("t.h5"), &file));
    for (int i = 0; i < 4; i++) {
        const char *object = i % 2 == 0 ? "/" : "/group";
        hid_t attribute, type;

        snprintf(key, sizeof(key), "t%d", i);
        assert_ok(csp_hdf5_get_text(file, object, key, &text));
        assert_string_equal(text, texts[i]);
        free(text);
        attribute = H5Aopen_by_name(file->id, object, key, H5P_DEFAULT, H5P_DEFAULT);
        type = H5Aget_type(attribute);
        assert_true(H5Tis_variable_str(type) > 0);
        assert_int_equal(H5Tget_cset(type), H5T_CSET_UTF8);
        H5Tclose(type);
        H5Aclose(attribute);
    }
    assert_ok(csp_hdf5_get_text(file, "/", "long", &text));
    assert_int_equal(strlen(text), 1 << 20);
    free(text);
    csp_hdf5_close(file);
}

/* Long and short texts fill HDF5's heap in other ways; old contents of memory are in neither. */
static void the_same_texts_give_the_same_bytes(void **state)
{
    static const int64_t sizes[] = { 1, 100, 3000, 5000, 70000 };

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        char *first, *second, *dirt = malloc(1 << 16);
        size_t count, again;

        write_texts(scratch_path("t.h5"), sizes[i]);
        first = scratch_read(scratch_path("t.h5"), &count);
        assert_non_null(dirt);
        memset(dirt, 0xA5, 1 << 16);
        free(dirt);
        write_texts(scratch_path("t.h5"), sizes[i]);
        second = scratch_read(scratch_path("t.h5"), &again);
        assert_int_equal(again, count);
        assert_memory_equal(first, second, count);
        free(first);
        free(second);
    }
}

/* As files were written before texts were of variable length. */
static void set_fixed(csp_hdf5 *file, const char *key, const char *text, size_t bytes)
{
    const hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    hid_t attribute;

    assert_true(H5Tset_size(type, bytes) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0);
    assert_true(H5Tset_strpad(type, H5T_STR_NULLPAD) >= 0);
    attribute = H5Acreate2(file->id, key, type, space, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(attribute >= 0 && H5Awrite(attribute, type, text) >= 0);
    H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
}

static void texts_of_fixed_length_are_read_too(void **state)
{
    csp_hdf5 *file;
    char *text;

    (void)state;
    assert_ok(csp_hdf5_create(scratch_path("f.h5"), &file));
    set_fixed(file, "format", "csplade-checkpoint", strlen("csplade-checkpoint"));
    set_fixed(file, "empty", "", 1);
    set_fixed(file, "bad", "\xFF\xFF", 2);
    assert_ok(csp_hdf5_commit(file));
    assert_ok(csp_hdf5_open(scratch_path("f.h5"), &file));
    assert_ok(csp_hdf5_get_text(file, "/", "format", &text));
    assert_string_equal(text, "csplade-checkpoint");
    free(text);
    assert_ok(csp_hdf5_get_text(file, "/", "empty", &text));
    assert_string_equal(text, "");
    free(text);
    assert_int_equal(csp_hdf5_get_text(file, "/", "bad", &text), CSP_ERR_FORMAT);
    assert_error_has("not valid UTF-8");
    csp_hdf5_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_strings_of_any_length),
        cmocka_unit_test(the_same_texts_give_the_same_bytes),
        cmocka_unit_test(texts_of_fixed_length_are_read_too),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
