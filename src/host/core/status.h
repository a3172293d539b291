/*
 * status.h - failure as a value.
 *
 * Everything that can fail for a reason outside the program returns csp_status. The function that
 * first knows what went wrong says it once with CSP_FAIL; callers pass it on with CSP_TRY. The text
 * is kept per thread until the next failure; only cli/ prints it and turns it into an exit code.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define CSP_CHECKED __attribute__((warn_unused_result))
#define CSP_PRINTF(format_at, first_at) __attribute__((format(printf, format_at, first_at)))
#define CSP_NORETURN __attribute__((noreturn))
#else
#define CSP_CHECKED
#define CSP_PRINTF(format_at, first_at)
#define CSP_NORETURN
#endif

typedef enum csp_status {
    CSP_OK = 0,
    CSP_ERR_ARGUMENT,    /* a call that breaks its contract, a setting out of range       */
    CSP_ERR_SHAPE,       /* a tensor of the wrong shape or dtype                          */
    CSP_ERR_CONFIG,      /* a config file, an override or a command line that is wrong    */
    CSP_ERR_IO,          /* the operating system refused: open, write, rename, disk full  */
    CSP_ERR_FORMAT,      /* a file whose bytes are not what its format says               */
    CSP_ERR_DATA,        /* well-formed data that cannot be used: ids that do not join    */
    CSP_ERR_NUMERIC,     /* NaN or infinity where training cannot go on                   */
    CSP_ERR_MEMORY,      /* not enough memory, or more than a limit allows                */
    CSP_ERR_DEVICE,      /* a device or its driver failed                                 */
    CSP_ERR_UNSUPPORTED, /* right, but not implemented by this backend or build           */
    CSP_ERR_COMM,        /* another rank failed or did not answer                         */
    CSP_ERR_INTERRUPTED, /* stopped by a signal after a checkpoint: run again to go on    */
    CSP_STATUS_COUNT
} csp_status;

/*
 * Use where a failure is first detected: it names the cause. Evaluates to the status, visibly to
 * the compiler, which can then see that out-parameters are written whenever CSP_OK is returned.
 */
#define CSP_FAIL(status, ...) \
    ((void)csp_error_set((status), __FILE__, __LINE__, __VA_ARGS__), (status))

/* Use everywhere above that: it passes a failure on and adds nothing. */
#define CSP_TRY(call)                 \
    do {                              \
        csp_status csp_try_ = (call); \
        if (csp_try_ != CSP_OK) {     \
            return csp_try_;          \
        }                             \
    } while (0)

/* In a function with a fail: label and a local `csp_status status`. */
#define CSP_TRY_GOTO(call)      \
    do {                        \
        status = (call);        \
        if (status != CSP_OK) { \
            goto fail;          \
        }                       \
    } while (0)

/* Broken invariants of our own code only; on in every build. Data never reaches an assertion. */
#define CSP_ASSERT(condition) \
    ((condition) ? (void)0 : csp_assert_failed(#condition, __FILE__, __LINE__))

/*
 * Records a failure for this thread and returns status. The text is cut at 1,023 bytes, and made
 * one printable line of UTF-8 (printable.h), whatever a file or a command line has put into it.
 *
 *   status   in   not CSP_OK
 *   format   in   printf format: one sentence with the cause, the value, the limit, the file
 */
csp_status csp_error_set(csp_status status, const char *file, int line, const char *format, ...)
    CSP_PRINTF(4, 5);

/* The text of this thread's last failure, "" if none. Valid until the next failure. */
const char *csp_error_text(void);

/* Where it was raised ("file.c:12"), for reports to developers. Valid until the next failure. */
const char *csp_error_place(void);

/* A short lower-case name of a status, "format" for CSP_ERR_FORMAT. Never NULL. */
const char *csp_status_name(csp_status status);

CSP_NORETURN void csp_assert_failed(const char *condition, const char *file, int line);

#ifdef __cplusplus
}
#endif
