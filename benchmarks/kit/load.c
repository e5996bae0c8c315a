/* A load client: one epoll thread, closed loop, keep-alive. Prints one line of JSON.
 *
 *     load -a HOST:PORT | -a unix:PATH   -m json | -m stream   [-c CONNECTIONS] [-d SECONDS]
 *          [-N MAX_TOKENS] [-D MICROSECONDS_BETWEEN_CHUNKS] [-P PATH] [-M MODEL] [-K KEY]
 *
 * Every connection sends a chat request, reads the whole reply and sends the next. Only what began and
 * ended within the time counts. Times are microseconds: "p50" of whole requests, "ttft50" to the first
 * chunk, "transit50" from the engine's send() to here (each chunk of `fake_engine` says when it was
 * sent), "transit_max" the longest of these. "short" counts streams that ended too early.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

/* Where in a reply a connection is. OVER: it asks no more. */
enum state { HEAD, LENGTH, TO_END, SIZE, DATA, AFTER_DATA, TRAILER, OVER };

typedef struct {
  int fd, status, events;
  enum state state;
  bool closing, done;         /* done: [DONE] was seen */
  int64_t sent, left;         /* left: bytes of the body or of the chunk */
  size_t written, head_len, event_len;
  char head[8192], event[8192]; /* event: the part of one that came so far */
} conn;

typedef struct {
  uint32_t *tenths;           /* of a microsecond: four bytes for each sample */
  size_t n, room;
} samples;

static const char *address = "127.0.0.1:9100", *path = "/v1/chat/completions", *model = "fake";
static const char *key = "none";
static bool stream;
static int connections = 1;
static long tokens = 128, period;
static double seconds = 3;
static char *request;
static size_t request_len;
static int loop;
static int64_t ends;
static samples latency, ttft, transit;
static long requests, events, errors, shorts, reconnects;

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * SECOND + t.tv_nsec;
}

static void add(samples *to, int64_t ns) {
  if (to->n == to->room) {
    to->room = to->room ? to->room * 2 : 65536;
    to->tenths = realloc(to->tenths, to->room * sizeof *to->tenths);
  }
  to->tenths[to->n++] = ns < 0 ? 0 : ns / 100 > UINT32_MAX ? UINT32_MAX : ns / 100;
}

static int by_size(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

/* Microseconds; -1 without samples, which must be sorted. */
static double quantile(const samples *of, double fraction) {
  if (!of->n) return -1;
  size_t i = fraction * of->n;
  return of->tenths[i < of->n ? i : of->n - 1] / 10.0;
}

static int dial(void) {
  int fd, one = 1;
  if (!strncmp(address, "unix:", 5)) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    strncpy(at.sun_path, address + 5, sizeof at.sun_path - 1);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (void *)&at, sizeof at)) return close(fd), -1;
  } else {
    char host[64];
    snprintf(host, sizeof host, "%s", address);
    char *colon = strrchr(host, ':');
    *colon = 0;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(colon + 1))};
    inet_aton(host, &at.sin_addr);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (void *)&at, sizeof at)) return close(fd), -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  }
  fcntl(fd, F_SETFL, O_NONBLOCK);
  return fd;
}

static void watch(conn *c, int change, uint32_t what) {
  struct epoll_event e = {.events = what, .data.ptr = c};
  epoll_ctl(loop, change, c->fd, &e);
}

static void write_on(conn *c) {
  while (c->written < request_len) {
    ssize_t n = send(c->fd, request + c->written, request_len - c->written, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EAGAIN) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
      return; /* a dead connection shows when it is read */
    }
    c->written += n;
  }
}

static void ask(conn *c) {
  c->state = HEAD;
  c->head_len = c->event_len = c->written = 0;
  c->events = 0;
  c->closing = c->done = false;
  c->sent = now();
  write_on(c);
}

static void open_connection(conn *c) {
  for (int tries = 0; (c->fd = dial()) < 0; tries++) {
    if (tries == 200) {
      fprintf(stderr, "load: cannot connect to %s\n", address);
      exit(2);
    }
    usleep(10000);
  }
  watch(c, EPOLL_CTL_ADD, EPOLLIN);
  ask(c);
}

static void reopen(conn *c) {
  close(c->fd);
  reconnects++;
  open_connection(c);
}

/* One reply is complete. */
static void finish(conn *c) {
  int64_t t = now();
  if (c->status != 200) {
    if (!errors++) fprintf(stderr, "load: status %d: %.300s\n", c->status, c->head);
  } else if (stream && (!c->done || c->events != tokens)) {
    if (!shorts++) fprintf(stderr, "load: %d chunks, %s\n", c->events, c->done ? "done" : "no end");
  } else if (t <= ends) {
    requests++;
    add(&latency, t - c->sent);
  }
  if (t > ends) c->state = OVER;
  else if (c->closing) reopen(c);
  else ask(c);
}

static void take_event(conn *c, const char *data, size_t size, int64_t t) {
  const char *stamp = memchr(data, '@', size);
  if (!stamp) {
    c->done |= memmem(data, size, "[DONE]", 6) != 0;
    return;
  }
  if (t <= ends) {
    events++;
    add(&transit, t - strtoll(stamp + 1, 0, 10));
    if (!c->events) add(&ttft, t - c->sent);
  }
  c->events++;
}

/* Cut the body of a stream into events, whatever the pieces that it comes in. */
static void take_body(conn *c, const char *data, size_t size, int64_t t) {
  if (!stream || c->status != 200) return;
  while (size) {
    if (size > sizeof c->event - c->event_len) {
      fprintf(stderr, "load: an event is too long\n");
      exit(2);
    }
    const char *line_end = memchr(data, '\n', size);
    size_t n = line_end ? (size_t)(line_end - data + 1) : size;
    memcpy(c->event + c->event_len, data, n);
    c->event_len += n;
    data += n;
    size -= n;
    if (c->event_len >= 2 && !memcmp(c->event + c->event_len - 2, "\n\n", 2)) {
      take_event(c, c->event, c->event_len, t);
      c->event_len = 0;
    }
  }
}

/* The status line and headers are whole: what follows? */
static void read_head(conn *c, const char *end) {
  bool chunked = false;
  c->status = atoi(c->head + 9);
  c->left = -1;
  for (char *line = strstr(c->head, "\r\n"); line && line < end; line = strstr(line + 2, "\r\n")) {
    if (!strncasecmp(line + 2, "content-length:", 15)) c->left = atoll(line + 17);
    if (!strncasecmp(line + 2, "transfer-encoding: chunked", 26)) chunked = true;
    if (!strncasecmp(line + 2, "connection: close", 17)) c->closing = true;
  }
  c->state = chunked ? SIZE : c->left >= 0 ? LENGTH : TO_END;
  if (chunked) c->left = 0;
  if (c->state == TO_END) c->closing = true;
}

static size_t take_head(conn *c, const char *data, size_t size) {
  size_t before = c->head_len, n = size;
  if (n > sizeof c->head - 1 - before) n = sizeof c->head - 1 - before;
  memcpy(c->head + before, data, n);
  c->head_len += n;
  c->head[c->head_len] = 0;
  char *end = memmem(c->head, c->head_len, "\r\n\r\n", 4);
  if (!end) return n;
  size_t used = end + 4 - c->head - before;
  read_head(c, end);
  c->head_len = 0;
  if (c->state == LENGTH && !c->left) finish(c);
  return used;
}

static int hex(char c) {
  return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

static void feed(conn *c, const char *data, size_t size, int64_t t) {
  const char *end = data + size;
  while (data < end && c->state != OVER) {
    size_t n = end - data;
    switch (c->state) {
      case HEAD: data += take_head(c, data, n); break;
      case TO_END: take_body(c, data, n, t); return;
      case LENGTH:
      case DATA:
        if ((int64_t)n > c->left) n = c->left;
        take_body(c, data, n, t);
        data += n;
        c->left -= n;
        if (c->left) break;
        if (c->state == DATA) c->state = AFTER_DATA;
        else finish(c);
        break;
      case AFTER_DATA:
        if (*data++ == '\n') c->state = SIZE;
        break;
      case SIZE:
        if (*data == '\n') c->state = c->left ? DATA : TRAILER;
        else if (hex(*data) >= 0) c->left = c->left * 16 + hex(*data);
        data++;
        break;
      case TRAILER: /* head_len: letters on this line of it */
        if (*data == '\n' && !c->head_len) finish(c);
        else if (*data == '\n') c->head_len = 0;
        else if (*data != '\r') c->head_len++;
        data++;
        break;
      case OVER: return;
    }
  }
}

static void read_on(conn *c) {
  static char buffer[262144];
  ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
  if (n > 0) {
    feed(c, buffer, n, now());
  } else if (n == 0 || errno != EAGAIN) {
    /* a server may close a connection on which nothing was answered yet */
    bool unanswered = c->state == HEAD && !c->head_len;
    if (c->state == TO_END) finish(c);
    else if (c->state == OVER) watch(c, EPOLL_CTL_DEL, 0);
    else errors += !unanswered, reopen(c);
  }
}

static void write_request(void) {
  char body[1024];
  int size = snprintf(body, sizeof body,
                      "{\"model\":\"%s\",\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful "
                      "assistant.\"},{\"role\":\"user\",\"content\":\"Write a short story about a lighthouse "
                      "keeper.\"}],\"temperature\":0.7,\"max_tokens\":%ld,\"seed\":%ld,\"stream\":%s}",
                      model, tokens, period, stream ? "true" : "false");
  request_len = asprintf(&request,
                         "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
                         "Content-Type: application/json\r\nAuthorization: Bearer %s\r\n"
                         "Content-Length: %d\r\n\r\n%s",
                         path, key, size, body);
}

static double cpu(void) {
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  return used.ru_utime.tv_sec + used.ru_stime.tv_sec +
         1e-6 * (used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

int main(int argc, char **argv) {
  int option;
  while ((option = getopt(argc, argv, "a:m:c:d:N:D:P:M:K:")) != -1) switch (option) {
      case 'a': address = optarg; break;
      case 'm': stream = !strcmp(optarg, "stream"); break;
      case 'c': connections = atoi(optarg); break;
      case 'd': seconds = atof(optarg); break;
      case 'N': tokens = atol(optarg); break;
      case 'D': period = atol(optarg); break;
      case 'P': path = optarg; break;
      case 'M': model = optarg; break;
      case 'K': key = optarg; break;
      default: return 2;
    }
  write_request();
  loop = epoll_create1(0);
  ends = now() + (int64_t)(seconds * SECOND);
  conn *all = calloc(connections, sizeof *all);
  for (int i = 0; i < connections; i++) open_connection(&all[i]);
  static struct epoll_event ready[512];
  while (now() < ends) {
    int n = epoll_wait(loop, ready, 512, 20);
    for (int i = 0; i < n; i++) {
      conn *c = ready[i].data.ptr;
      if (ready[i].events & EPOLLOUT) {
        write_on(c);
        if (c->written == request_len) watch(c, EPOLL_CTL_MOD, EPOLLIN);
      }
      if (ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_on(c);
    }
  }
  qsort(latency.tenths, latency.n, sizeof(uint32_t), by_size);
  qsort(ttft.tenths, ttft.n, sizeof(uint32_t), by_size);
  qsort(transit.tenths, transit.n, sizeof(uint32_t), by_size);
  printf("{\"requests\":%ld,\"rps\":%.1f,\"p50\":%.1f,\"p99\":%.1f,\"chunks\":%ld,\"ttft50\":%.1f,"
         "\"ttft99\":%.1f,\"transit50\":%.1f,\"transit99\":%.1f,\"transit_max\":%.1f,\"errors\":%ld,"
         "\"short\":%ld,\"reconnects\":%ld,\"cpu\":%.3f}\n",
         requests, requests / seconds, quantile(&latency, .5), quantile(&latency, .99), events,
         quantile(&ttft, .5), quantile(&ttft, .99), quantile(&transit, .5), quantile(&transit, .99),
         quantile(&transit, 1), errors, shorts, reconnects, cpu());
  return 0;
}
