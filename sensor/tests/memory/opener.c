/*
 * Has files open: `opener PROCESSES OPENINGS DESCRIPTORS SECONDS FILE..` makes PROCESSES with OPENINGS each, of the files in turn,
 * and has DESCRIPTORS itself. Each opens them anew after SECONDS, and again; 0: never.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

static char **names;
static long names_count;

static int open_files(long openings)
{
	int first = -1;

	for (long number = 0; number < openings; number++) {
		int fd = open(names[number % names_count], O_RDONLY);

		if (fd < 0) {
			perror(names[number % names_count]);
			exit(1);
		}
		if (first < 0)
			first = fd;
	}
	return first;
}

static void have_open(long openings, unsigned seconds)
{
	for (;;) {
		int first = open_files(openings);

		if (!seconds)
			for (;;)
				pause();
		sleep(seconds);
		for (long number = 0; number < openings; number++)
			close(first + number);
	}
}

int main(int argc, char **argv)
{
	if (argc < 6)
		return 2;
	long processes = atol(argv[1]), openings = atol(argv[2]), descriptors = atol(argv[3]);
	unsigned seconds = atoi(argv[4]);

	names = argv + 5;
	names_count = argc - 5;

	for (long number = 0; number < processes; number++) {
		pid_t pid = fork();

		if (pid < 0) {
			perror("fork");
			return 1;
		}
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			have_open(openings, seconds);
		}
		/* Slow enough for any reader of the ring: this is about memory, not about speed. */
		if (number % 8 == 0)
			usleep(1000);
	}
	open_files(descriptors);
	puts("done");
	fflush(stdout);
	for (;;)
		pause();
}
