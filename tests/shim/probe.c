/* Does to files what its arguments say, one step each, prints the outcome of every step, and then waits to be killed.
 * Tests of the fault shim run it, because it does exactly one system call per step. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int step(char **w) {
    char text[64];
    if (!strcmp(w[0], "append") || !strcmp(w[0], "over")) {
        int append = w[0][0] == 'a', fd = open(w[1], O_RDWR | O_CREAT | (append ? O_APPEND : 0), 0644);
        const char *what = append ? w[2] : w[3];
        ssize_t want = strlen(what);
        ssize_t got = fd < 0 ? -1 : append ? write(fd, what, want) : pwrite(fd, what, want, atoi(w[2]));
        int problem = errno;
        close(fd);
        errno = problem;
        return got == want ? 0 : -1;
    }
    if (!strcmp(w[0], "read")) {
        int fd = open(w[1], O_RDONLY);
        return fd < 0 ? -1 : read(fd, text, sizeof text) < 0 ? -1 : 0;
    }
    if (!strcmp(w[0], "sync")) {
        int fd = open(w[1], O_RDONLY), got = fd < 0 ? -1 : fdatasync(fd), problem = errno;
        close(fd);
        errno = problem;
        return got;
    }
    if (!strcmp(w[0], "truncate")) {
        int fd = open(w[1], O_RDWR);
        return fd < 0 ? -1 : ftruncate(fd, atoi(w[2]));
    }
    if (!strcmp(w[0], "empty")) return open(w[1], O_RDWR | O_TRUNC) < 0 ? -1 : 0;
    if (!strcmp(w[0], "rename")) return rename(w[1], w[2]);
    if (!strcmp(w[0], "unlink")) return unlink(w[1]);
    errno = EINVAL;
    return -1;
}

int main(int count, char **steps) {
    for (int i = 1; i < count; i++) {
        char *words[4] = {0}, *rest = steps[i];
        for (int n = 0; n < 4 && rest; n++) words[n] = strsep(&rest, " ");
        errno = 0;
        printf("%s %s\n", words[0], step(words) == 0 ? "ok" : strerror(errno));
    }
    printf("done\n");
    fflush(stdout);
    pause();
    return 0;
}
