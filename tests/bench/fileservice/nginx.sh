# Sourced: start_nginx WORK ROOT serves ROOT (GET with sendfile, PUT) on a free port of loopback and
# sets nginx_port, nginx_pid and nginx_worker.
start_nginx() {
  nginx_port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  mkdir -p "$1/nginx"
  chmod 755 "$1"
  cat >"$1/nginx/conf" <<CONF
worker_processes 1; pid $1/nginx/pid; error_log $1/nginx/error; user root;
events { worker_connections 64; }
http { access_log off; sendfile on; tcp_nopush on; client_max_body_size 0;
  client_body_temp_path $1/nginx/body;
  server { listen 127.0.0.1:$nginx_port; root $2;
    location / { dav_methods PUT; create_full_put_path on; } } }
CONF
  nginx -c "$1/nginx/conf" 2>/dev/null
  while [ ! -s "$1/nginx/pid" ]; do sleep 0.05; done
  nginx_pid=$(cat "$1/nginx/pid")
  while nginx_worker=$(cat "/proc/$nginx_pid/task/$nginx_pid/children"); [ -z "$nginx_worker" ]; do sleep 0.05; done
  nginx_worker=${nginx_worker%% *}
}
