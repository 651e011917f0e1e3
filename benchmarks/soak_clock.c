/* A wall clock of its own for one process: what CLOCK_REALTIME says, plus an offset that another process writes.
 *
 *   cc -shared -fPIC -O2 -o soak_clock.so soak_clock.c -ldl
 *   LD_PRELOAD=./soak_clock.so SOAK_CLOCK=offset PROGRAM      the file `offset` holds nanoseconds, int64
 *
 * The host's clock stays as it is, and so do the monotonic clocks, as with a real jump (NTP, a dead battery).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset_ns;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("SOAK_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *page = mmap(NULL, sizeof *offset_ns, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (page != MAP_FAILED) offset_ns = page;
}

int clock_gettime(clockid_t which, struct timespec *now) {
    if (!real) begin();
    int code = real(which, now);
    if (code == 0 && offset_ns && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) {
        int64_t ns = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + *offset_ns;
        now->tv_sec = ns / 1000000000;
        now->tv_nsec = ns % 1000000000;
    }
    return code;
}

int gettimeofday(struct timeval *now, void *zone) {
    (void)zone;
    struct timespec fine;
    int code = clock_gettime(CLOCK_REALTIME, &fine);
    now->tv_sec = fine.tv_sec;
    now->tv_usec = fine.tv_nsec / 1000;
    return code;
}

time_t time(time_t *now) {
    struct timespec fine;
    clock_gettime(CLOCK_REALTIME, &fine);
    if (now) *now = fine.tv_sec;
    return fine.tv_sec;
}

/* Waits until a time of day know the kernel's clock only: without this PortAudio, which asks for the time and
 * waits until a second later, would wait for as long as the clock is off. */

static struct timespec kernel_time(const struct timespec *until) {
    int64_t ns = (int64_t)until->tv_sec * 1000000000 + until->tv_nsec - (offset_ns ? *offset_ns : 0);
    return (struct timespec){ns / 1000000000, ns % 1000000000};
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *lock, const struct timespec *until) {
    if (until->tv_sec < 500000000) /* seconds since the boot: a condition of the monotonic clock */
        return pthread_cond_clockwait(condition, lock, CLOCK_MONOTONIC, until);
    struct timespec then = kernel_time(until);
    return pthread_cond_clockwait(condition, lock, CLOCK_REALTIME, &then);
}

int sem_timedwait(sem_t *semaphore, const struct timespec *until) {
    struct timespec then = kernel_time(until);
    return sem_clockwait(semaphore, CLOCK_REALTIME, &then);
}
