/*
 * hdf5_driver.c - how HDF5 reaches the disk: pread and pwrite on a descriptor of ours, no locks,
 * and failed writes remembered in csp_hdf5_disk instead of reported (hdf5_file.h says why).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/fault.h"
#include "io/hdf5_file.h"

#include <H5FDpublic.h>

typedef struct disk_file {
    H5FD_t base; /* HDF5's part comes first */
    csp_hdf5_disk *disk;
    haddr_t eoa, eof;
} disk_file;

/* The access list of a file carries a pointer to its csp_hdf5_disk. */
static H5FD_t *disk_open(const char *name, unsigned flags, hid_t fapl, haddr_t maxaddr)
{
    csp_hdf5_disk *const *disk = H5Pget_driver_info(fapl);
    disk_file *file;

    (void)name;
    (void)maxaddr;
    file = disk != NULL ? calloc(1, sizeof(*file)) : NULL;
    if (file != NULL) {
        file->disk = *disk;
        file->eof = file->disk->writing ? 0 : file->disk->bytes;
        if ((flags & H5F_ACC_TRUNC) != 0 && ftruncate(file->disk->fd, 0) != 0) {
            file->disk->write_errno = errno;
        }
    }
    return (H5FD_t *)file;
}

static herr_t disk_close(H5FD_t *base)
{
    free(base);
    return 0;
}

static int disk_compare(const H5FD_t *a, const H5FD_t *b)
{
    const uintptr_t x = (uintptr_t)((const disk_file *)a)->disk;
    const uintptr_t y = (uintptr_t)((const disk_file *)b)->disk;

    return (x > y) - (x < y);
}

static herr_t disk_query(const H5FD_t *base, unsigned long *flags)
{
    (void)base;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
             H5FD_FEAT_AGGREGATE_SMALLDATA | H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
    return 0;
}

static haddr_t disk_get_eoa(const H5FD_t *base, H5FD_mem_t type)
{
    (void)type;
    return ((const disk_file *)base)->eoa;
}

static herr_t disk_set_eoa(H5FD_t *base, H5FD_mem_t type, haddr_t eoa)
{
    (void)type;
    ((disk_file *)base)->eoa = eoa;
    ((disk_file *)base)->disk->end = eoa;
    return 0;
}

static haddr_t disk_get_eof(const H5FD_t *base, H5FD_mem_t type)
{
    (void)type;
    return ((const disk_file *)base)->eof;
}

/* Beyond the end of the file there are zeros, as HDF5 expects of a driver. */
static herr_t disk_read(H5FD_t *base, H5FD_mem_t type, hid_t dxpl, haddr_t address, size_t bytes,
                        void *buffer)
{
    const disk_file *file = (const disk_file *)base;
    char *to = buffer;

    (void)type;
    (void)dxpl;
    if (file->disk->kept != NULL) {
        const size_t there =
            address < file->disk->bytes ? (size_t)(file->disk->bytes - address) : 0;
        const size_t part = bytes < there ? bytes : there;

        memcpy(to, file->disk->kept + (part > 0 ? address : 0), part);
        memset(to + part, 0, bytes - part);
        return 0;
    }
    while (bytes > 0) {
        const ssize_t got = pread(file->disk->fd, to, bytes, (off_t)address);

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return -1;
        }
        if (got == 0) {
            memset(to, 0, bytes);
            break;
        }
        to += got;
        address += (haddr_t)got;
        bytes -= (size_t)got;
    }
    return 0;
}

static herr_t disk_write(H5FD_t *base, H5FD_mem_t type, hid_t dxpl, haddr_t address, size_t bytes,
                         const void *buffer)
{
    disk_file *file = (disk_file *)base;
    csp_hdf5_disk *disk = file->disk;
    const char *from = buffer;

    (void)type;
    (void)dxpl;
    if (csp_fault_here() && disk->write_errno == 0) {
        disk->write_errno = EIO;
    }
    if (address + bytes > file->eof) {
        file->eof = address + bytes;
    }
    while (bytes > 0 && disk->write_errno == 0) {
        const ssize_t put = pwrite(disk->fd, from, bytes, (off_t)address);

        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            disk->write_errno = put < 0 ? errno : ENOSPC;
            break;
        }
        from += put;
        address += (haddr_t)put;
        bytes -= (size_t)put;
    }
    return 0;
}

/* Makes the file as long as HDF5 says it is. */
static herr_t disk_truncate(H5FD_t *base, hid_t dxpl, hbool_t closing)
{
    disk_file *file = (disk_file *)base;

    (void)dxpl;
    (void)closing;
    if (file->disk->writing && file->eoa != file->eof) {
        if (file->disk->write_errno == 0 && ftruncate(file->disk->fd, (off_t)file->eoa) != 0) {
            file->disk->write_errno = errno;
        }
        file->eof = file->eoa;
    }
    return 0;
}

hid_t csp_hdf5_driver(void)
{
    static const H5FD_class_t driver = {
        .name = "csplade",
        .maxaddr = INT64_MAX,
        .fc_degree = H5F_CLOSE_STRONG,
        .fapl_size = sizeof(csp_hdf5_disk *),
        .open = disk_open,
        .close = disk_close,
        .cmp = disk_compare,
        .query = disk_query,
        .get_eoa = disk_get_eoa,
        .set_eoa = disk_set_eoa,
        .get_eof = disk_get_eof,
        .read = disk_read,
        .write = disk_write,
        .truncate = disk_truncate,
        .fl_map = H5FD_FLMAP_DICHOTOMY,
    };

    return H5FDregister(&driver);
}
