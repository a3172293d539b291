/*
 * test_hdf5_foreign.c - datasets as other programs may write them, or somebody who means harm:
 * values in other files, none at all, and sizes that the file cannot hold.
 */
#include "scratch.h"

#include "io/hdf5_file.h"

static const hsize_t two = 2;

/* Makes /x of float32 by a property list. Returns what HDF5 says. */
static bool make(csp_hdf5 *file, hid_t space, hid_t list)
{
    const hid_t made =
        H5Dcreate2(file->id, "/x", H5T_IEEE_F32LE, space, H5P_DEFAULT, list, H5P_DEFAULT);
    const bool good = made >= 0;

    H5Dclose(made);
    H5Sclose(space);
    H5Pclose(list);
    return good;
}

static bool in_raw_file(csp_hdf5 *file)
{
    const hid_t list = H5Pcreate(H5P_DATASET_CREATE);

    return H5Pset_external(list, scratch_path("raw"), 0, 8) >= 0 &&
           make(file, H5Screate_simple(1, &two, NULL), list);
}

static bool in_another_dataset(csp_hdf5 *file)
{
    const hid_t list = H5Pcreate(H5P_DATASET_CREATE), source = H5Screate_simple(1, &two, NULL);
    const bool good = H5Pset_virtual(list, source, scratch_path("other.h5"), "/y", source) >= 0;

    H5Sclose(source);
    return good && make(file, H5Screate_simple(1, &two, NULL), list);
}

static bool behind_a_link(csp_hdf5 *file)
{
    return H5Lcreate_external(scratch_path("other.h5"), "/y", file->id, "/x", H5P_DEFAULT,
                              H5P_DEFAULT) >= 0;
}

static bool without_values(csp_hdf5 *file)
{
    return make(file, H5Screate(H5S_NULL), H5Pcreate(H5P_DATASET_CREATE));
}

/* Chunks that were never written: 16 GiB of zeros in some hundred bytes. */
static bool larger_than_the_file(csp_hdf5 *file)
{
    const hsize_t size = (hsize_t)1 << 32, chunk = 1 << 20;
    const hid_t list = H5Pcreate(H5P_DATASET_CREATE);

    return H5Pset_chunk(list, 1, &chunk) >= 0 && make(file, H5Screate_simple(1, &size, NULL), list);
}

static void what_a_file_does_not_hold_itself_is_not_read(void **state)
{
    static const struct {
        bool (*make)(csp_hdf5 *file);
        const char *says;
    } cases[] = {
        { in_raw_file, "/x: its values are in other files" },
        { in_another_dataset, "/x: its values are in other files" },
        { behind_a_link, "/x: no such dataset" },
        { without_values, "/x: a dataset without values" },
        { larger_than_the_file, "/x: says it has 17179869184 bytes, which a file of" },
    };
    const int64_t count = 2;
    float values[2] = { 1, 2 };
    csp_tensor t = csp_tensor_view(values, CSP_F32, 1, &count), described;
    csp_hdf5 *file;

    (void)state;
    scratch_write(scratch_path("raw"), (const char *)values, sizeof(values));
    assert_ok(csp_hdf5_create(scratch_path("other.h5"), &file));
    assert_ok(csp_hdf5_write(file, "/y", &t));
    assert_ok(csp_hdf5_commit(file));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_ok(csp_hdf5_create(scratch_path("foreign.h5"), &file));
        assert_true(cases[i].make(file));
        assert_ok(csp_hdf5_commit(file));
        assert_ok(csp_hdf5_open(scratch_path("foreign.h5"), &file));
        assert_int_equal(csp_hdf5_describe(file, "/x", &described), CSP_ERR_FORMAT);
        assert_error_has(cases[i].says);
        assert_int_equal(csp_hdf5_read(file, "/x", &t), CSP_ERR_FORMAT);
        assert_error_has("foreign.h5: ");
        csp_hdf5_close(file);
    }
}

/* A million zeros take a thousand bytes, and are values all the same. */
static void what_is_packed_well_is_read(void **state)
{
    enum { COUNT = 1 << 20 };
    const hsize_t size = COUNT;
    const int64_t count = COUNT;
    const hid_t list = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(1, &size, NULL);
    float *values = calloc(COUNT, sizeof(*values));
    csp_tensor t = csp_tensor_view(values, CSP_F32, 1, &count);
    csp_hdf5 *file;
    hid_t made;

    (void)state;
    assert_non_null(values);
    assert_ok(csp_hdf5_create(scratch_path("packed.h5"), &file));
    assert_true(H5Pset_chunk(list, 1, &size) >= 0 && H5Pset_deflate(list, 9) >= 0);
    made = H5Dcreate2(file->id, "/x", H5T_IEEE_F32LE, space, H5P_DEFAULT, list, H5P_DEFAULT);
    assert_true(made >= 0 &&
                H5Dwrite(made, H5T_IEEE_F32LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
    H5Dclose(made);
    H5Sclose(space);
    H5Pclose(list);
    assert_ok(csp_hdf5_commit(file));
    assert_ok(csp_hdf5_open(scratch_path("packed.h5"), &file));
    values[7] = 1;
    assert_ok(csp_hdf5_read(file, "/x", &t));
    assert_true(values[7] == 0);
    csp_hdf5_close(file);
    free(values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_file_does_not_hold_itself_is_not_read),
        cmocka_unit_test(what_is_packed_well_is_read),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
