// A publish/subscribe server on uWebSockets, for `benches/run peers`. The request's headers name the channel of a connection.
// Frames are passed on as they come: it reads neither tokens nor JSON.
//
// usage: uwebsockets PORT

#include <cstdlib>
#include <string>

#include "App.h"

struct Connection {
    std::string channel;
    bool reads;
};

int main(int, char **arguments) {
    uWS::App app;
    app.ws<Connection>("/*", {
        .compression = uWS::DISABLED,
        .maxPayloadLength = 64 * 1024,
        .idleTimeout = 120,
        // No message of these loads may be dropped.
        .maxBackpressure = 64 * 1024 * 1024,
        .upgrade = [](auto *response, auto *request, auto *context) {
            Connection connection{std::string(request->getHeader("channel")), request->getHeader("reads") == "1"};
            response->template upgrade<Connection>(std::move(connection), request->getHeader("sec-websocket-key"),
                                                   request->getHeader("sec-websocket-protocol"),
                                                   request->getHeader("sec-websocket-extensions"), context);
        },
        .open = [](auto *socket) {
            if (socket->getUserData()->reads) socket->subscribe(socket->getUserData()->channel);
        },
        .message = [&app](auto *socket, std::string_view message, uWS::OpCode code) {
            const Connection *connection = socket->getUserData();
            // A socket publishes to all readers but itself, and only if it is a reader of anything.
            if (connection->reads) socket->publish(connection->channel, message, code);
            else app.publish(connection->channel, message, code);
        },
    });
    bool listens = false;
    app.listen("127.0.0.1", std::atoi(arguments[1]), [&listens](auto *listener) { listens = listener; });
    if (!listens) return EXIT_FAILURE;
    app.run();
}
