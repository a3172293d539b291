/*
 * image.h - what one rank of a machine has read, for all of its ranks: arrays one after the other,
 * without an address among them, in memory that the ranks share where they can; else each has a
 * copy.
 *
 *     image: [ array or value, from a multiple of 64 bytes on ] ...
 *
 * An object that goes into an image has one function, which names its parts to csp_image_array and
 * its like, always in the same order. On the rank that read, the image takes them over; on others
 * the same function makes the object of them. So the index of a collection is in memory once,
 * whatever the number of ranks.
 *
 *     CSP_TRY(csp_image_create(machine, &image));
 *     if (csp_image_reads(image)) {
 *         ... open files, calling csp_image_waits now and then ...
 *     }
 *     CSP_TRY(csp_image_share(image, visit, objects));
 *     ... what lies in the image is used, and closed ...
 *     csp_image_destroy(image);
 *
 * An image of NULL, as of a rank alone, costs nothing: that rank reads, and shares with nobody.
 * Where the reader fails it does not come to csp_image_share; the others, which wait there, fail
 * by their communicator (CSP_ERR_COMM) once it has reported that.
 */
#pragma once

#include "comm/comm.h"

typedef struct csp_image csp_image;

/*
 *   machine   in    the ranks that share, rank 0 of which reads; NULL or one rank: *out is NULL
 *
 * Owner:  csp_image_destroy, after all that lies in it. Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_image_create(csp_comm *machine, csp_image **out);
void csp_image_destroy(csp_image *image);

/* Whether this rank is the one that reads. */
bool csp_image_reads(const csp_image *image);

/*
 * The reader, while it reads: lets the others, which wait in csp_image_share, know that it is still
 * there, at most once a second. Without it they would take it for hung after the communicator's
 * timeout. Errors: CSP_ERR_COMM, where another rank has failed.
 */
CSP_CHECKED csp_status csp_image_waits(csp_image *image);

/*
 * Calls visit(context, image): on the reader twice, when the parts are written and when they have
 * become those of the image, on the others once.
 *
 * Ranks:  collective among those of the machine.
 * Errors: those of visit; CSP_ERR_COMM, CSP_ERR_MEMORY. Objects can only be closed then.
 */
CSP_CHECKED csp_status csp_image_share(csp_image *image,
                                       csp_status (*visit)(void *context, csp_image *image),
                                       void *context);

/* Once it is shared: whether this rank looks at the reader's memory, or has a copy; its bytes. */
bool csp_image_is_mapped(const csp_image *image);
int64_t csp_image_bytes(const csp_image *image);

/* For a function that visits: */

/*
 * Whether parts are taken from the image, else they are put in: then an array that it gives is the
 * image's, is never written to, and must not be freed.
 */
bool csp_image_gives(const csp_image *image);

/*
 * One array. Put in: freed, and *block is NULL until it is given. Does not fail where it is given.
 *
 *   count   in,out   its elements, as they were put in
 *   block   in,out   T **; at a multiple of 64 bytes of the image
 *
 * Errors: CSP_ERR_MEMORY; *block is as it was.
 */
CSP_CHECKED csp_status csp_image_array(csp_image *image, int64_t *count, size_t size, void *block);

/* A value of some bytes without pointers: given where it was put in. */
CSP_CHECKED csp_status csp_image_value(csp_image *image, void *value, size_t bytes);

/*
 * A text of its own on every rank: given only where *text is NULL, with a NUL behind it.
 *
 *   bytes   in,out   without the NUL
 *
 * Owner: the caller frees *text.
 */
CSP_CHECKED csp_status csp_image_text(csp_image *image, char **text, int64_t *bytes);
