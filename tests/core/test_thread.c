/* test_thread.c - tasks in threads: what they leave, and which signals they take. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "core/thread.h"

typedef struct work {
    int gate[2]; /* a pipe that the task reads from before it ends */
    int value;
    csp_status status;
} work;

static csp_status wait_at_the_gate(void *argument)
{
    work *w = argument;
    char byte;

    while (read(w->gate[0], &byte, 1) != 1) {
        assert_int_equal(errno, EINTR);
    }
    w->value++;
    return w->status == CSP_OK ? CSP_OK : CSP_FAIL(w->status, "the value was %d", w->value);
}

static void what_a_task_leaves_is_there_when_it_is_waited_for(void **state)
{
    csp_task task = { 0 };
    work w = { .value = 1 };

    (void)state;
    assert_int_equal(pipe(w.gate), 0);
    assert_int_equal(csp_task_wait(&task), CSP_OK); /* none was started */
    csp_task_drop(&task);
    for (int i = 0; i < 3; i++) {
        const bool dropped = i == 2;

        w.status = i == 0 ? CSP_OK : CSP_ERR_IO;
        assert_int_equal(csp_task_start(&task, "a test", wait_at_the_gate, &w), CSP_OK);
        assert_true(csp_task_is_started(&task));
        assert_false(csp_task_is_done(&task)); /* it cannot be: it stands at the gate */
        assert_int_equal(write(w.gate[1], "x", 1), 1);
        (void)csp_error_set(CSP_ERR_DATA, __FILE__, __LINE__, "%s", "before");
        if (dropped) {
            csp_task_drop(&task);
        } else {
            assert_int_equal(csp_task_wait(&task), w.status);
        }
        assert_string_equal(csp_error_text(), i == 0 || dropped ? "before" : "the value was 3");
        assert_int_equal(w.value, 2 + i);
        assert_false(csp_task_is_started(&task));
        assert_int_equal(csp_task_wait(&task), CSP_OK); /* said once */
    }
    (void)close(w.gate[0]);
    (void)close(w.gate[1]);
}

static csp_status look_at_signals(void *argument)
{
    sigset_t *mask = argument;

    return pthread_sigmask(SIG_SETMASK, NULL, mask) == 0 ? CSP_OK : CSP_ERR_ARGUMENT;
}

static void a_thread_takes_no_signals_and_its_caller_as_before(void **state)
{
    const int asked[] = { SIGTERM, SIGINT, SIGUSR1, SIGUSR2 };
    csp_task task = { 0 };
    sigset_t inside, before, after;

    (void)state;
    assert_int_equal(pthread_sigmask(SIG_SETMASK, NULL, &before), 0);
    assert_int_equal(csp_task_start(&task, "a test", look_at_signals, &inside), CSP_OK);
    assert_int_equal(csp_task_wait(&task), CSP_OK);
    assert_int_equal(pthread_sigmask(SIG_SETMASK, NULL, &after), 0);
    for (int i = 0; i < (int)(sizeof(asked) / sizeof(asked[0])); i++) {
        assert_true(sigismember(&inside, asked[i]));
        assert_int_equal(sigismember(&after, asked[i]), sigismember(&before, asked[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_task_leaves_is_there_when_it_is_waited_for),
        cmocka_unit_test(a_thread_takes_no_signals_and_its_caller_as_before),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
