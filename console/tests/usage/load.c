/* Uses up one thing: `load KIND NUMBER`, then sleeps. Linked statically, it is all that its container has. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

/* All the CPU there is. */
static void burn(long number)
{
	for (volatile long turn = number;; turn++)
		;
}

/* Megabytes of memory, which the compiler must not see to be unused. */
static char *volatile filled;

static void memory(long megabytes)
{
	filled = malloc(megabytes << 20);
	memset(filled, 1, megabytes << 20);
}

/* The same in a child: what a container begins with ends it. */
static void child(long megabytes)
{
	if (fork() == 0) {
		memory(megabytes);
		_exit(0);
	}
}

static void descriptors(long number)
{
	for (long i = 3; i < number; i++)
		if (open("/load", O_RDONLY) < 0)
			fail("open");
}

static void *idle(void *nothing)
{
	pause();
	return nothing;
}

static void threads(long number)
{
	pthread_attr_t small;
	pthread_t thread;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 64 << 10);
	for (long i = 0; i < number; i++)
		if (pthread_create(&thread, &small, idle, NULL) != 0)
			fail("pthread_create");
}

static struct sockaddr_in address(const char *text, int port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };

	inet_pton(AF_INET, text, &address.sin_addr);
	return address;
}

/* A socket with room for NUMBER connections, and eight that nobody accepts. */
static void waiting(long number)
{
	struct sockaddr_in own = address("127.0.0.1", 80);
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(listener, (struct sockaddr *)&own, sizeof(own)) != 0 || listen(listener, number) != 0)
		fail("listen");
	for (int i = 0; i < 8; i++) {
		int client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

		if (connect(client, (struct sockaddr *)&own, sizeof(own)) != 0 && errno != EINPROGRESS)
			fail("connect");
	}
}

/* Megabytes to the other end of the container's wire, where nobody listens; until there is a wire it waits. */
static void send_out(long megabytes)
{
	static char block[1000];
	int out = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in host = address("192.0.2.2", 9);

	for (long i = 0; i < megabytes * 1000; i++)
		while (sendto(out, block, sizeof(block), 0, (struct sockaddr *)&host, sizeof(host)) < 0)
			usleep(10000);
}

/* Calls that an ordinary user may not make. */
static void refused(long number)
{
	for (long i = 0; i < number; i++)
		if (setuid(0) == 0 || errno != EPERM)
			fail("setuid");
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*use)(long number);
	} kinds[] = {
		{ "burn", burn }, { "memory", memory }, { "child", child }, { "descriptors", descriptors }, { "threads", threads },
		{ "waiting", waiting }, { "send", send_out }, { "refused", refused },
	};

	if (argc != 3)
		return 2;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strcmp(kinds[i].name, argv[1]) == 0) {
			/* By then it is known what the container is called. */
			sleep(2);
			kinds[i].use(atol(argv[2]));
			for (;;)
				pause();
		}
	return 2;
}
