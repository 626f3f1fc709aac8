/* LD_PRELOAD shim: a wall clock that the drill can set, while the monotonic clock stays true.
 *
 * TRIVET_DRILL_CLOCK names a file of int64 values, shared with the drill (layout: chaos/ground/clock.py).
 * The drill writes the first six, guarded by `version` (odd while it writes); the shim writes the rest, so
 * that the drill can prove that the process was told the wrong time.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)
#define BILLION 1000000000

struct page {
    int64_t version, offset_ns, drift_ppb, since_ns, strobe_ns, strobe_half_ns;
    int64_t calls, steps, applied_ns;
};

static struct page *page;
static int (*real_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void start(void) {
    real_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("TRIVET_DRILL_CLOCK");
    int file = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return;
    void *memory = mmap(NULL, sizeof(struct page), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory != MAP_FAILED)
        page = memory;
}

static int64_t monotonic_ns(void) {
    struct timespec now;
    real_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * SECOND + now.tv_nsec;
}

/* How far the wall clock is off now. The monotonic clock is asked only where it matters. */
static int64_t shift_ns(void) {
    int64_t version, offset, drift, since, strobe, half;
    int tries = 0; /* a drill killed while it writes leaves an odd version: no process may hang for that */
    do {
        version = __atomic_load_n(&page->version, __ATOMIC_ACQUIRE);
        offset = __atomic_load_n(&page->offset_ns, __ATOMIC_RELAXED);
        drift = __atomic_load_n(&page->drift_ppb, __ATOMIC_RELAXED);
        since = __atomic_load_n(&page->since_ns, __ATOMIC_RELAXED);
        strobe = __atomic_load_n(&page->strobe_ns, __ATOMIC_RELAXED);
        half = __atomic_load_n(&page->strobe_half_ns, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
    } while (((version & 1) || version != __atomic_load_n(&page->version, __ATOMIC_RELAXED)) && ++tries < 1000);
    if (drift != 0 || half > 0) {
        int64_t passed = monotonic_ns() - since;
        offset += (int64_t)((__int128)passed * drift / BILLION);
        if (half > 0 && passed / half % 2 == 0)
            offset += strobe;
    }
    return offset;
}

static void note(int64_t shift) {
    int64_t before = __atomic_exchange_n(&page->applied_ns, shift, __ATOMIC_RELAXED);
    int64_t step = shift - before;
    if (step > SECOND / 100 || step < -SECOND / 100)
        __atomic_fetch_add(&page->steps, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&page->calls, 1, __ATOMIC_RELEASE);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (real_gettime == NULL) /* called by the constructor of another library */
        real_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real_gettime(clock, now);
    if (result != 0 || page == NULL || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
        return result;
    int64_t shift = shift_ns();
    note(shift);
    int64_t total = (int64_t)now->tv_sec * SECOND + now->tv_nsec + shift;
    now->tv_sec = total / SECOND;
    now->tv_nsec = total % SECOND;
    if (now->tv_nsec < 0) {
        now->tv_nsec += SECOND;
        now->tv_sec -= 1;
    }
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec exact;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    if (result == 0) {
        now->tv_sec = exact.tv_sec;
        now->tv_usec = exact.tv_nsec / 1000;
    }
    return result;
}

time_t time(time_t *out) {
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0)
        return (time_t)-1;
    if (out != NULL)
        *out = exact.tv_sec;
    return exact.tv_sec;
}
