/* log.c - one lock, one writer, one progress line. */
#include "core/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include "core/printable.h"

enum { LINE_BYTES = 2048 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static csp_log_level log_level = CSP_LOG_INFO;
static int log_rank = -1;
static bool log_live;
static bool progress_stands;

void csp_log_set_level(csp_log_level level)
{
    log_level = level;
}

csp_log_level csp_log_get_level(void)
{
    return log_level;
}

void csp_log_set_rank(int rank)
{
    log_rank = rank;
}

bool csp_log_is_live(void)
{
    return log_live;
}

void csp_log_set_live(bool live)
{
    log_live = live;
}

void csp_log(csp_log_level level, const char *part, const char *format, ...)
{
    static const char *const names[] = { "debug", "info ", "warn " };
    char text[LINE_BYTES], rank[24] = "";
    struct tm now;
    time_t seconds;
    va_list args;

    if (level < log_level || level >= CSP_LOG_NONE || (log_rank > 0 && level < CSP_LOG_WARN)) {
        return;
    }
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    csp_make_printable(text);
    if (log_rank >= 0) {
        snprintf(rank, sizeof(rank), "rank %d  ", log_rank);
    }
    seconds = time(NULL);
    localtime_r(&seconds, &now);
    pthread_mutex_lock(&lock);
    fprintf(stderr, "%s%02d:%02d:%02d %s %s  %s%s\n", progress_stands ? "\r\033[K" : "",
            now.tm_hour, now.tm_min, now.tm_sec, names[level], part, rank, text);
    progress_stands = false;
    pthread_mutex_unlock(&lock);
}

void csp_log_progress(const char *format, ...)
{
    va_list args;

    if (!log_live || log_rank > 0) {
        return;
    }
    pthread_mutex_lock(&lock);
    if (format != NULL) {
        fputs("\r\033[K", stderr);
        va_start(args, format);
        vfprintf(stderr, format, args);
        va_end(args);
    } else if (progress_stands) {
        fputs("\r\033[K", stderr);
    }
    progress_stands = format != NULL;
    fflush(stderr);
    pthread_mutex_unlock(&lock);
}
