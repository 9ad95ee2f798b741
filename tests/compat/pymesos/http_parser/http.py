"""HTTP/1.1 response parser with the part of http_parser's interface pymesos uses."""


class HttpParser(object):
    def __init__(self):
        self._buffer = b''
        self._status = None
        self._headers = {}
        self._headers_done = False
        self._chunked = False
        self._left = None           # bytes left of a body with a length
        self._chunk = None          # bytes left of the chunk being read
        self._body = []
        self._partial = False
        self._complete = False

    def execute(self, data, length):
        self._buffer += data[:length]
        if not self._headers_done and not self._parse_head():
            return length
        if self._chunked:
            self._parse_chunks()
        else:
            self._parse_plain()
        return length

    def _parse_head(self):
        head, found, rest = self._buffer.partition(b'\r\n\r\n')
        if not found:
            return False
        lines = head.decode('latin-1').split('\r\n')
        self._status = int(lines[0].split(' ')[1])
        for line in lines[1:]:
            name, _, value = line.partition(':')
            self._headers[name.strip().title()] = value.strip()
        self._chunked = self._headers.get('Transfer-Encoding', '').lower() == 'chunked'
        if not self._chunked and 'Content-Length' in self._headers:
            self._left = int(self._headers['Content-Length'])
            self._complete = self._left == 0
        self._headers_done = True
        self._buffer = rest
        return True

    def _parse_plain(self):
        data, self._buffer = self._buffer, b''
        if not data:
            return
        self._body.append(data)
        self._partial = True
        if self._left is not None:
            self._left -= len(data)
            self._complete = self._left <= 0

    def _parse_chunks(self):
        while not self._complete:
            if self._chunk is None:
                size, found, rest = self._buffer.partition(b'\r\n')
                if not found:
                    return
                self._chunk = int(size.split(b';')[0], 16)
                self._buffer = rest
                if self._chunk == 0:
                    self._complete = True
                    return
            if self._chunk > 0:
                data = self._buffer[:self._chunk]
                if not data:
                    return
                self._body.append(data)
                self._partial = True
                self._buffer = self._buffer[len(data):]
                self._chunk -= len(data)
            if self._chunk == 0:
                if len(self._buffer) < 2:
                    return
                self._buffer = self._buffer[2:]
                self._chunk = None

    def get_errno(self):
        return 0

    def is_headers_complete(self):
        return self._headers_done

    def get_status_code(self):
        return self._status

    def get_headers(self):
        return dict(self._headers)

    def is_chunked(self):
        return self._chunked

    def is_partial_body(self):
        return self._partial

    def recv_body(self):
        data, self._body, self._partial = b''.join(self._body), [], False
        return data

    def is_message_complete(self):
        return self._complete
