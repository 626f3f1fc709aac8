/* NATS's C client (libnats) at its best, as a driver: the options, the start signal and the result line of common.py.

Publishes are asynchronous with a window of unconfirmed ones; a consumer keeps two pull requests outstanding and acks
each message by itself, as drivers/nats.py does. A failure ends the process with status 1 and a line on stderr.
Built by brokers/nats.py: cc -O2 nats.c -lnats -lpthread */

#include <fcntl.h>
#include <nats/nats.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { PREFETCH = 500, TEXT = 256, WAIT_MS = 20000 };

struct options {
    const char *role, *address, *queue, *level;
    double seconds, rate;
    long count, size, window, ahead;
};

/* Growing lists of seconds. Only one thread writes to each. */
struct seconds {
    double *values;
    long count, room;
};

static struct seconds confirmed, delivered;

static void die(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static void must(natsStatus status, const char *what) {
    if (status != NATS_OK) die(what, natsStatus_GetText(status));
}

static double monotonic_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static double cpu_s(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
}

static void sleep_s(double seconds) {
    if (seconds <= 0) return;
    struct timespec rest = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&rest, NULL);
}

static void note(struct seconds *list, double value) {
    if (list->count == list->room) {
        list->room = list->room ? list->room * 2 : 1024;
        list->values = realloc(list->values, (size_t)list->room * sizeof(double));
        if (list->values == NULL) die("note", "out of memory");
    }
    list->values[list->count++] = value;
}

static struct options read_options(int count, char **words) {
    struct options given = {.seconds = 8, .size = 256, .window = 1000, .ahead = 5000};
    if (count < 2) die("usage", "publish|consume --address A --queue Q …");
    given.role = words[1];
    for (int at = 2; at + 1 < count; at += 2) {
        const char *name = words[at], *value = words[at + 1];
        if (!strcmp(name, "--address")) given.address = value;
        else if (!strcmp(name, "--queue")) given.queue = value;
        else if (!strcmp(name, "--level")) given.level = value;
        else if (!strcmp(name, "--seconds")) given.seconds = atof(value);
        else if (!strcmp(name, "--rate")) given.rate = atof(value);
        else if (!strcmp(name, "--count")) given.count = atol(value);
        else if (!strcmp(name, "--size")) given.size = atol(value);
        else if (!strcmp(name, "--window")) given.window = atol(value);
        else if (!strcmp(name, "--ahead")) given.ahead = atol(value);
        else die("unknown option", name);
    }
    if (given.address == NULL || given.queue == NULL) die("usage", "--address and --queue are needed");
    return given;
}

/* common.py's Level: published and consumed messages, each counted by one process only. */
static volatile uint64_t *open_level(const char *path) {
    if (path == NULL) return NULL;
    int file = open(path, O_RDWR | O_CREAT, 0644);
    if (file < 0 || ftruncate(file, 16)) die("--level", path);
    void *shared = mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared == MAP_FAILED) die("--level", path);
    return shared;
}

static void wait_for_start(void) {
    char line[TEXT];
    puts("READY");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL) die("start", "stdin ended");
}

static void print_list(const char *name, const struct seconds *list) {
    printf(",\"%s\":[", name);
    for (long at = 0; at < list->count; at++) printf(at ? ",%.6f" : "%.6f", list->values[at]);
    printf("]");
}

static void report(const char *role, long messages, double seconds, double cpu) {
    printf("{\"role\":\"%s\",\"messages\":%ld,\"seconds\":%.6f,\"cpu_s\":%.6f", role, messages, seconds, cpu);
    print_list("confirm_s", &confirmed);
    print_list("delivered_s", &delivered);
    puts("}");
    fflush(stdout);
}

static double made_at_s(const natsMsg *message) {
    double made;
    memcpy(&made, natsMsg_GetData(message), sizeof made);
    return made;
}

/* In the library's thread. */
static void on_confirm(jsCtx *stream, natsMsg *message, jsPubAck *ack, jsPubAckErr *error, void *closure) {
    (void)stream, (void)ack, (void)closure;
    if (error != NULL) die("publish", error->ErrText ? error->ErrText : natsStatus_GetText(error->Err));
    note(&confirmed, monotonic_s() - made_at_s(message));
    natsMsg_Destroy(message);
}

static void publish(const struct options *given, natsConnection *connection) {
    jsOptions options;
    jsCtx *stream = NULL;
    char subject[TEXT];
    volatile uint64_t *level = open_level(given->level);
    char *body = calloc(1, (size_t)given->size);
    must(jsOptions_Init(&options), "options");
    options.PublishAsync.MaxPending = given->window;
    options.PublishAsync.StallWait = WAIT_MS;
    options.PublishAsync.AckHandler = on_confirm;
    must(natsConnection_JetStream(&stream, connection, &options), "jetstream");
    snprintf(subject, sizeof subject, "%s.in", given->queue);
    wait_for_start();
    double began = monotonic_s(), cpu = cpu_s(), end = began + given->seconds;
    long sent = 0;
    while (monotonic_s() < end && !(given->count && sent >= given->count)) {
        if (given->rate > 0) {
            double due = began + (double)sent / given->rate;
            if (due >= end) break;
            sleep_s(due - monotonic_s());
        }
        if (level != NULL) {
            while ((int64_t)(level[0] - level[1]) > given->ahead && monotonic_s() < end) sleep_s(0.001);
            level[0]++;
        }
        double now = monotonic_s();
        memcpy(body, &now, sizeof now);
        must(js_PublishAsync(stream, subject, body, (int)given->size, NULL), "publish");
        sent++;
    }
    jsPubOptions wait;
    must(jsPubOptions_Init(&wait), "options");
    wait.MaxWait = WAIT_MS;
    must(js_PublishAsyncComplete(stream, &wait), "the last confirms");
    report("publish", confirmed.count, monotonic_s() - began, cpu_s() - cpu);
}

static void consume(const struct options *given, natsConnection *connection) {
    natsInbox *inbox = NULL;
    natsSubscription *subscription = NULL;
    char next[TEXT], request[TEXT];
    volatile uint64_t *level = open_level(given->level);
    must(natsInbox_Create(&inbox), "inbox");
    must(natsConnection_SubscribeSync(&subscription, connection, inbox), "subscribe");
    must(natsSubscription_SetPendingLimits(subscription, -1, -1), "limits");
    snprintf(next, sizeof next, "$JS.API.CONSUMER.MSG.NEXT.%s.bench", given->queue);
    snprintf(request, sizeof request, "{\"batch\":%d,\"expires\":30000000000}", PREFETCH);
    wait_for_start();
    double began = monotonic_s(), cpu = cpu_s(), end = began + given->seconds, last = began;
    long taken = 0, credit = 2 * PREFETCH;
    for (int at = 0; at < 2; at++) must(natsConnection_PublishRequestString(connection, next, inbox, request), "pull");
    while (monotonic_s() < end && !(given->count && taken >= given->count)) {
        natsMsg *message = NULL;
        natsStatus status = natsSubscription_NextMsg(&message, subscription, 200);
        if (status == NATS_TIMEOUT) continue;
        must(status, "next");
        const char *reply = natsMsg_GetReply(message);
        if (reply != NULL && *reply) { /* else a status line of the server */
            if (given->rate > 0) note(&delivered, monotonic_s() - made_at_s(message));
            must(natsConnection_Publish(connection, reply, "+ACK", 4), "ack");
            last = monotonic_s();
            taken++;
            if (level != NULL) level[1]++;
            if (--credit <= PREFETCH) {
                credit += PREFETCH;
                must(natsConnection_PublishRequestString(connection, next, inbox, request), "pull");
            }
        }
        natsMsg_Destroy(message);
    }
    must(natsConnection_FlushTimeout(connection, 5000), "flush");
    bool whole = given->count && taken >= given->count;
    report("consume", taken, whole ? last - began : monotonic_s() - began, cpu_s() - cpu);
}

int main(int count, char **words) {
    struct options given = read_options(count, words);
    natsConnection *connection = NULL;
    natsOptions *options = NULL;
    char url[TEXT];
    snprintf(url, sizeof url, "nats://%s", given.address);
    must(natsOptions_Create(&options), "options");
    must(natsOptions_SetURL(options, url), "url");
    /* Else the library waits a millisecond for more to send: best for throughput, and no good for one by one. */
    must(natsOptions_SetSendAsap(options, given.rate > 0), "options");
    must(natsConnection_Connect(&connection, options), url);
    if (!strcmp(given.role, "publish")) publish(&given, connection);
    else if (!strcmp(given.role, "consume")) consume(&given, connection);
    else die("role", given.role);
    return 0;
}
