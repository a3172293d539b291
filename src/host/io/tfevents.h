/*
 * tfevents.h - scalars in a TensorBoard event file.
 *
 * Record: u64 length, u32 masked crc32c(length bytes), data, u32 masked crc32c(data), where
 * mask(c) = rotr(c, 15) + 0xa282ead8. Data is an Event protobuf: 1 double wall_time, 2 int64 step,
 * 3 string file_version ("brain.Event:2", first record only), 5 Summary{1 Value{1 tag, 2
 * simple_value}}.
 */
#pragma once

#include "core/status.h"

typedef struct csp_tfevents csp_tfevents;

/*
 * Makes DIR/events.out.tfevents.<seconds>.<host>.<pid>.<n>, n 0 unless that exists. DIR must exist.
 * Errors: CSP_ERR_IO, CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_tfevents_create(const char *dir, csp_tfevents **out);
/*
 * Appends one scalar, which is on its way to the disk when this returns.
 *
 *   tag    in   1 to 1,000 bytes of UTF-8, "train/loss"
 *   value  in   kept as float32; may be NaN or infinite
 *
 * Errors: CSP_ERR_IO, CSP_ERR_ARGUMENT.
 */
CSP_CHECKED csp_status csp_tfevents_scalar(csp_tfevents *events, int64_t step, const char *tag,
                                           double value);
/* Waits until everything is on the disk. Errors: CSP_ERR_IO. */
CSP_CHECKED csp_status csp_tfevents_flush(csp_tfevents *events);
void csp_tfevents_close(csp_tfevents *events);
