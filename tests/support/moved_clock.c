/* A wall clock that is off: preloaded into a process, moves CLOCK_REALTIME by the nanoseconds in a file.
 *
 * The file MOVED_CLOCK names is mapped, so a new number counts at once. Monotonic clocks and file times stay
 * true. Waits until a wall-clock time see the moved clock too, also when it moves while they wait, as the
 * kernel has it; they are cut into slices for that. Between slices a condition's wait returns as if woken,
 * which POSIX allows at any time.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define SLICE 50000000LL
#define LONG_AGO 1000000000 /* seconds: in 2001. An earlier time is one of a condition on the monotonic clock. */

typedef int (*gettime_fn)(clockid_t, struct timespec *);
typedef int (*cond_fn)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
typedef int (*cnd_fn)(cnd_t *, mtx_t *, const struct timespec *);
typedef int (*sem_fn)(sem_t *, const struct timespec *);

static const volatile int64_t unmoved;
static const volatile int64_t *moved = &unmoved;
static gettime_fn real_gettime;
static cond_fn real_cond;
static cnd_fn real_cnd;
static sem_fn real_sem;

static void *real(const char *name) {
    /* Without a version, dlsym may find a condition of before 2003. */
    void *found = dlvsym(RTLD_NEXT, name, "GLIBC_2.3.2");
    return found ? found : dlsym(RTLD_NEXT, name);
}

static void prepare(void) {
    if (real_gettime) return;
    real_cond = (cond_fn)real("pthread_cond_timedwait");
    real_cnd = (cnd_fn)dlsym(RTLD_NEXT, "cnd_timedwait");
    real_sem = (sem_fn)dlsym(RTLD_NEXT, "sem_timedwait");
    real_gettime = (gettime_fn)dlsym(RTLD_NEXT, "clock_gettime");
}

__attribute__((constructor)) static void begin(void) {
    prepare();
    const char *path = getenv("MOVED_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) moved = mapped;
    close(file);
}

static int64_t ns_of(const struct timespec *at) { return at->tv_sec * SECOND + at->tv_nsec; }

static struct timespec at_ns(int64_t ns) {
    return (struct timespec){.tv_sec = ns / SECOND, .tv_nsec = ns % SECOND};
}

static int64_t true_ns(void) {
    struct timespec now;
    prepare();
    real_gettime(CLOCK_REALTIME, &now);
    return ns_of(&now);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    prepare();
    int failed = real_gettime(clock, at);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) *at = at_ns(ns_of(at) + *moved);
    return failed;
}

int timespec_get(struct timespec *at, int base) {
    return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, at) ? base : 0;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    (void)zone;
    int64_t ns = true_ns() + *moved;
    if (at) *at = (struct timeval){.tv_sec = ns / SECOND, .tv_usec = ns % SECOND / 1000};
    return 0;
}

time_t time(time_t *at) {
    time_t now = (true_ns() + *moved) / SECOND;
    if (at) *at = now;
    return now;
}

/* The true time until which to wait for the next slice; ``last``: whether the wait ends with it. */
static struct timespec slice(const struct timespec *until, int *last) {
    int64_t now = true_ns(), left = ns_of(until) - *moved - now;
    *last = left <= SLICE;
    return at_ns(now + (*last ? left : SLICE));
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    int last;
    if (until->tv_sec < LONG_AGO) return real_cond(cond, mutex, until);
    struct timespec next = slice(until, &last);
    int result = real_cond(cond, mutex, &next);
    return result == ETIMEDOUT && !last ? 0 : result;
}

int cnd_timedwait(cnd_t *cond, mtx_t *restrict mutex, const struct timespec *restrict until) {
    int last;
    struct timespec next = slice(until, &last);
    int result = real_cnd(cond, mutex, &next);
    return result == thrd_timedout && !last ? thrd_success : result;
}

int sem_timedwait(sem_t *restrict sem, const struct timespec *restrict until) {
    for (;;) {
        int last;
        struct timespec next = slice(until, &last);
        if (!real_sem(sem, &next)) return 0;
        if (errno != ETIMEDOUT || last) return -1;
    }
}
