/*
 * digest.h - a checksum of bytes that come in pieces, as text: XXH3-128, 32 hexadecimal digits.
 *
 * It tells contents apart that differ by accident; it is no protection against intent.
 */
#pragma once

#include "core/status.h"

enum { CSP_DIGEST_TEXT_BYTES = 33 }; /* with the NUL */

typedef struct csp_digest csp_digest;

/* A digest of nothing yet. Owner: csp_digest_destroy. Errors: CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_digest_create(csp_digest **out);
void csp_digest_destroy(csp_digest *digest);

/* Goes on with these bytes; how they are cut into pieces does not matter. bytes >= 0. */
void csp_digest_add(csp_digest *digest, const void *data, int64_t bytes);

/* Of all bytes so far; more may follow. */
void csp_digest_say(const csp_digest *digest, char text[CSP_DIGEST_TEXT_BYTES]);
