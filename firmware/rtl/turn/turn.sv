// A whole turn in logic: a request out of its ring in shared memory, through the unit, its answer into the ring of
// answers, its jobs into a list beside it (docs/unit.md has registers and order).
//
// The firmware arms it with what the next request of a queue has to be: place, session, number. A doorbell has it look.
// A request that is that and asks for one token of one layer is answered here, whole. Anything else, whatever it is, is
// handed to the firmware before an answer is published, and stays in its ring: also a token for which the host wants
// other experts than the unit finds.
module cptr_turn #(
  parameter int unsigned E = 256,
  parameter int unsigned K = 8,
  parameter int unsigned LAYERS = 1,
  parameter int unsigned DIVIDERS = 8,
  parameter int unsigned WORDS = 4,
  parameter int unsigned CHOICES = 512,
  parameter int unsigned TOKENS = 1024,
  parameter int unsigned PLACES = 64,
  parameter int unsigned SIGMOID = 1
) (
  input  logic        clk,
  input  logic        rst_n,
  // The core's bus: the unit's registers from 000 on, those here from 100 on, the host's doorbell at 200, from 400 on
  // what was decided: for each rank its word of the unit's answer, then its weight. A request that is granted has its
  // word in the next cycle.
  input  logic        bus_request,
  output logic        bus_grant,
  input  logic        bus_write,
  input  logic [10:0] bus_address,
  input  logic [31:0] bus_write_data,
  output logic [31:0] bus_read_data,
  // Memory, before everybody else: a word is there the cycle after it was asked for.
  output logic        memory_request,
  output logic        memory_write,
  output logic [31:0] memory_address,
  output logic [31:0] memory_write_data,
  input  logic [31:0] memory_read_data,
  // The host has rung, over its link; there is something for the firmware.
  input  logic        host_rings,
  output logic        interrupt
);
  localparam int unsigned ID = $clog2(E);
  localparam int unsigned RANK = (K > 1) ? $clog2(K) : 1;
  localparam int unsigned BITS = $clog2(LAYERS * E);
  localparam int unsigned LAYER = (LAYERS > 1) ? $clog2(LAYERS) : 1;
  localparam logic [31:0] TOKEN_REQUEST = 32'h0604_7063, TOKEN_ANSWER = 32'h8604_7063;

  // Registers.
  localparam logic [4:0] NAME = 5'd0, CONTROL = 5'd1, STATUS = 5'd2, REQUEST = 5'd3, ANSWER = 5'd4, PUT_AT = 5'd5,
    TAKEN = 5'd6, ANSWERED_AT = 5'd8, ANSWERED = 5'd9, SESSION = 5'd10, SEQUENCE = 5'd11, QUEUE = 5'd12,
    NUMBER = 5'd13, JOBS = 5'd14, LISTED = 5'd15, READY = 5'd16, BITS_AT = 5'd17, BITS_OF = 5'd18, CYCLES = 5'd19,
    TURN_EXPERTS = 5'd20, TURN_K = 5'd21;
  logic [31:0] request_at, answer_at, put_at, taken, answered_at, answered, session, sequence_number, number, jobs_at;
  logic [7:0]  queue;
  logic [2**LAYER-1:0] ready;
  logic [BITS-1:0] bits_at;
  logic [ID:0] experts;
  logic [RANK:0] k;
  logic [19:0] cycles;

  typedef enum logic [4:0] {
    IDLE, ARMED, READ, START, LOGITS, WANTED, FIXED, HEADER, CHOICES_OF, SETTLE, LIST, WEIGHT, PUBLISH, JOB_WEIGHT,
    STOP, DROP
  } state_t;
  state_t state;
  typedef enum logic [1:0] {NOTHING, TURN_DONE, HANDED} outcome_t;
  outcome_t outcome;
  wire works /* verilator public_flat_rd */ = state != IDLE && state != ARMED;
  assign interrupt = outcome != NOTHING;

  wire here = bus_request & bus_grant & bus_address[10:8] == 3'd1;
  wire doorbell = host_rings | (bus_request & bus_grant & bus_write & bus_address[10:8] == 3'd2);
  // A write is taken over a cycle later.
  logic write;
  logic [4:0] register_at;
  logic [31:0] value;
  always_ff @(posedge clk) begin
    register_at <= bus_address[6:2];
    value <= bus_write_data;
  end

  // The unit, whose bus is the core's but for the cycle of a doorbell.
  logic unit_rings /* verilator public_flat_rd */, unit_aborts, unit_busy, from_unit;
  logic [15:0] layer;
  logic in_valid, in_ready, in_last, out_valid, out_ready, out_last;
  logic [31:0] out_data, unit_data, here_data;
  // What was decided is read for the jobs, too.
  wire reads_weights = state == PUBLISH | state == JOB_WEIGHT;
  assign bus_grant = ~unit_rings & ~unit_aborts & ~(bus_address[10] & reads_weights);
  wire unit_mine = unit_rings | unit_aborts;
  cptr_unit #(
    .E(E), .K(K), .LAYERS(LAYERS), .DIVIDERS(DIVIDERS), .WORDS(WORDS), .CHOICES(CHOICES), .TOKENS(TOKENS),
    .PLACES(PLACES), .SIGMOID(SIGMOID)
  ) choice (
    .clk, .rst_n, .bus_request(unit_mine | (bus_request & bus_address[10:8] == 3'd0)),
    .bus_write(unit_mine | bus_write), .bus_address(unit_mine ? 8'h10 : bus_address[7:0]),
    .bus_write_data(unit_aborts ? 32'd6 : unit_rings ? {layer, 16'd1} : bus_write_data), .bus_read_data(unit_data),
    .in_valid, .in_ready, .in_last, .in_data(memory_read_data), .out_valid, .out_ready, .out_last, .out_data,
    .busy(unit_busy)
  );
  logic from_decided;
  logic [31:0] decided_data;
  always_ff @(posedge clk) begin
    from_unit <= bus_request & bus_address[10:8] == 3'd0;
    from_decided <= bus_request & bus_address[10];
  end
  assign bus_read_data = from_unit ? unit_data : from_decided ? decided_data : here_data;

  // What is read, in order: the index; the layer, so that the unit can begin; how many experts the host lists; the rest
  // of the header and of the descriptor; the checksum; the logits; the list. What was asked for in a cycle is looked at
  // in the next.
  localparam logic [3:0] LOOK_PUT = 4'd0, LOOK_LAYER = 4'd1, LOOK_COUNTS = 4'd2, LOOK_KIND = 4'd3, LOOK_SESSION = 4'd4,
    LOOK_SEQUENCE = 4'd5, LOOK_LENGTH = 4'd6, LOOK_QUEUE = 4'd7, LOOK_ACTIVATION = 4'd8, LOOK_RESULT = 4'd9,
    LOOK_SUM = 4'd10, LOOK_NONE = 4'd11;
  logic [3:0] step, seen;
  logic [ID:0] logit, last_logit;
  logic asked_logit, asked_last, right, wrong, layer_right;
  logic [31:0] activation, result, taken_then;
  // A host has one request on its way, so that the index is what it was, or one more.
  logic none_waits, one_waits, taken_carry;
  logic [31:0] request_bytes, answer_bytes;
  logic [7:0] answer_sum_word;
  // Whether the host lists what it wants, two ids a word, and what; whether that is something else than is found.
  logic listed, asked_list, differs;
  logic [RANK:0] list_word, list_seen;
  logic [15:0] list[K];
  always_comb begin
    layer_right = ready[memory_read_data[LAYER-1:0]] && memory_read_data[15:LAYER] == '0
                && memory_read_data[31:16] == 16'(experts);
    case (seen)
      LOOK_KIND: right = memory_read_data == TOKEN_REQUEST;
      LOOK_SESSION: right = memory_read_data == session;
      LOOK_SEQUENCE: right = memory_read_data == sequence_number;
      LOOK_LENGTH: right = memory_read_data == request_bytes + 32'd20;
      LOOK_QUEUE: right = memory_read_data == {queue, 8'd0, request_bytes[15:0]};
      LOOK_SUM: right = memory_read_data == 32'd0;
      // As many experts as a token takes, or none, and no loads; it may start a sequence.
      LOOK_COUNTS: right = (memory_read_data & ~32'h0000_01ff) == 32'd0
                         && (memory_read_data[7:0] == 8'd0 || (memory_read_data[7:0] == 8'(k) && !k[0]));
      default: right = 1'b1;
    endcase
  end

  // What is written of the answer before anything is chosen, and the jobs.
  logic [3:0] fixed;
  logic [RANK:0] index, near, job;
  logic [2:0] job_word;
  logic [RANK+1:0] settle;
  logic [31:0] fixed_word;
  logic [8:0] fixed_at;
  always_comb begin
    fixed_at = 9'(fixed);
    case (fixed)
      4'd0: fixed_word = answer_bytes + 32'd20;
      4'd1: fixed_word = TOKEN_ANSWER;
      4'd2: fixed_word = session;
      4'd3: fixed_word = sequence_number;
      4'd4: fixed_word = {queue, 8'd0, answer_bytes[15:0]};
      4'd5: begin
        fixed_word = {number[15:0], 16'd0};
        fixed_at = 9'd6;
      end
      4'd6, 4'd7: begin
        fixed_word = 32'd0;
        fixed_at = 9'(fixed) + 9'd1;
      end
      default: begin
        fixed_word = 32'd0;
        fixed_at = 9'(answer_sum_word);
      end
    endcase
  end
  always_ff @(posedge clk) begin
    request_bytes <= 32'd16 + (32'(experts) << 2) + (listed ? 32'(k) << 1 : 32'd0);
    answer_bytes <= 32'd16 + (32'(k) << 3);
    answer_sum_word <= 8'd9 + (8'(k) << 1);
  end

  // The experts that run near the data, those of most bits first, of equals as they were chosen. Their bits come out of
  // a memory, a cycle after their words.
  logic [4:0] bits, bits_2;
  logic choice_1, choice_2, missing_1, stands_in_1;
  logic [ID-1:0] expert_1;
  logic [RANK-1:0] rank_1;
  logic [15:0] wanted_1;
  wire take_choice = state == CHOICES_OF & out_valid;
  unit_ram #(.WIDTH(5), .DEPTH(LAYERS * E)) widths (
    .clk, .read(take_choice), .read_address(BITS'(32'(layer) * E) + BITS'(out_data[ID-1:0])), .read_data(bits),
    .write(write & register_at == BITS_OF), .write_address(bits_at), .write_data(value[4:0])
  );
  unit_ram #(.WIDTH(32), .DEPTH(2 * K)) decided (
    .clk, .read((bus_request & bus_address[10]) | reads_weights),
    .read_address(reads_weights ? {weight_rank, 1'b1} : bus_address[2+:RANK+1]), .read_data(decided_data),
    .write(out_valid & (state == CHOICES_OF | state == WEIGHT)),
    .write_address({index[RANK-1:0], state == WEIGHT}), .write_data(out_data)
  );
  logic [K-1:0] chain_full;
  logic [K*(5+RANK)-1:0] chain_keys;
  logic [K*ID-1:0] chain_experts;
  logic [4+RANK:0] job_key;
  logic [ID-1:0] job_expert;
  unit_rank_chain #(.K(K), .KEY(5 + RANK), .DATA(ID)) chain (
    .clk, .rst_n, .clear(state == FIXED), .now(1'b1), .enabled('1), .in_valid(choice_1 & missing_1),
    .in_key({bits, ~rank_1}), .in_data(expert_1), .out_valid(), .out_key(), .out_data(), .full(chain_full), .keys(chain_keys),
    .data(chain_experts)
  );
  unit_pick #(.N(K), .WIDTH(5 + RANK)) pick_key (.entries(chain_keys), .index(job[RANK-1:0]), .entry(job_key));
  unit_pick #(.N(K), .WIDTH(ID)) pick_expert (.entries(chain_experts), .index(job[RANK-1:0]), .entry(job_expert));
  wire [RANK-1:0] job_rank = ~job_key[RANK-1:0];
  // The place of a rank's job in the list.
  logic [RANK-1:0] place_of[K];
  logic [K-1:0] is_near;
  logic [31:0] job_data;
  always_comb begin
    case (job_word)
      3'd0: job_data = number;
      3'd1: job_data = {16'(job_expert), layer};
      3'd2: job_data = {16'd0, 8'(job_rank), 3'd0, job_key[RANK+:5]};
      3'd3: job_data = activation;
      default: job_data = result;
    endcase
  end
  logic [RANK-1:0] weight_place;
  always_comb weight_place = place_of[index[RANK-1:0]];
  // The rank whose weight is read for its job.
  wire [RANK-1:0] weight_rank = state == PUBLISH ? '0 : index[RANK-1:0] + 1'b1;
  // The word of a job: the weight lies fourth.
  wire [2:0] job_offset = job_word < 3'd3 ? job_word : job_word + 3'd1;
  wire last_rank = index + 1'b1 == k;
  wire last_job = job + 1'b1 == near;

  assign out_ready = (state == HEADER) | (state == CHOICES_OF) | (state == DROP) | (state == WEIGHT);
  assign in_valid = asked_logit;
  assign in_last = asked_last;

  // The port to memory.
  logic [31:0] slot_word;
  always_comb begin
    memory_request = 1'b0;
    memory_write = 1'b0;
    memory_address = request_at;
    memory_write_data = fixed_word;
    slot_word = '0;
    case (state)
      READ, START: begin
        memory_request = state == READ;
        case (step)
          LOOK_PUT: memory_address = put_at;
          LOOK_LAYER: memory_address = request_at + 32'd20;
          LOOK_COUNTS: memory_address = request_at + 32'd24;
          LOOK_ACTIVATION: memory_address = request_at + 32'd28;
          LOOK_RESULT: memory_address = request_at + 32'd32;
          LOOK_SUM: memory_address = request_at + 32'd20 + request_bytes;
          LOOK_LENGTH: memory_address = request_at;
          LOOK_QUEUE: memory_address = request_at + 32'd16;
          default: memory_address = request_at + ((32'(step) - 32'd2) << 2);
        endcase
      end
      LOGITS: begin
        memory_request = 1'b1;
        memory_address = request_at + 32'd36 + (32'(logit) << 2);
      end
      WANTED: begin
        memory_request = 1'b1;
        memory_address = request_at + 32'd36 + (32'(experts) << 2) + (32'(list_word) << 2);
      end
      FIXED: begin
        memory_request = 1'b1;
        memory_write = 1'b1;
        memory_address = answer_at + (32'(fixed_at) << 2);
      end
      HEADER: begin
        memory_request = out_valid;
        memory_write = 1'b1;
        memory_address = answer_at + 32'd20;
        memory_write_data = {out_data[7:0], 8'(k), layer};
      end
      CHOICES_OF, SETTLE: begin
        memory_request = choice_1;
        memory_write = 1'b1;
        memory_address = answer_at + 32'd36 + (32'(rank_1) << 3);
        memory_write_data = {7'd0, stands_in_1, missing_1 ? {3'd0, bits} : 8'd0, 16'(expert_1)};
      end
      LIST: begin
        memory_request = near != '0;
        memory_write = 1'b1;
        memory_address = jobs_at + 32'(job) * 32'd24 + (32'(job_offset) << 2);
        memory_write_data = job_data;
      end
      WEIGHT: begin
        memory_request = out_valid;
        memory_write = 1'b1;
        memory_address = answer_at + 32'd40 + (32'(index) << 3);
        memory_write_data = out_data;
      end
      JOB_WEIGHT: begin
        memory_request = is_near[index[RANK-1:0]];
        memory_write = 1'b1;
        memory_address = jobs_at + 32'(weight_place) * 32'd24 + 32'd12;
        memory_write_data = decided_data;
      end
      PUBLISH: begin
        memory_request = 1'b1;
        memory_write = 1'b1;
        memory_address = answered_at;
        memory_write_data = answered;
      end
      default: ;
    endcase
  end

  // Numbers that nobody looks at before it was armed with them.
  always_ff @(posedge clk) begin
    if (write && state == IDLE) begin
      case (register_at)
        REQUEST: request_at <= value;
        ANSWER: answer_at <= value;
        PUT_AT: put_at <= value;
        TAKEN: taken <= value;
        ANSWERED_AT: answered_at <= value;
        ANSWERED: answered <= value;
        SESSION: session <= value;
        SEQUENCE: sequence_number <= value;
        QUEUE: queue <= value[7:0];
        NUMBER: number <= value;
        JOBS: jobs_at <= value;
        BITS_AT: bits_at <= value[BITS-1:0];
        BITS_OF: bits_at <= bits_at + 1'b1;
        default: ;
      endcase
    end
  end

  // How long the unit has not begun, which a layer that there is not would cause.
  logic [4:0] patience;
  // It is to look at the index; a host has rung for that.
  logic looks, rung;
  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) begin
      state <= IDLE;
      outcome <= NOTHING;
      {ready, experts, k, cycles, write} <= '0;
      {unit_rings, unit_aborts, asked_logit, asked_last, asked_list, choice_1, looks, rung, wrong} <= '0;
    end else begin
      unit_rings <= 1'b0;
      unit_aborts <= 1'b0;
      asked_logit <= state == LOGITS;
      asked_last <= state == LOGITS & logit == last_logit;
      last_logit <= experts - 1'b1;
      logit <= state == LOGITS ? logit + 1'b1 : '0;
      fixed <= state == FIXED ? fixed + 4'd1 : '0;
      settle <= state == SETTLE ? settle + 1'b1 : '0;
      patience <= state == START || state == STOP ? patience + 5'd1 : '0;
      // In two halves: it is there long before it is looked at.
      {taken_carry, taken_then[15:0]} <= {1'b0, taken[15:0]} + 17'd1;
      taken_then[31:16] <= taken[31:16] + 16'(taken_carry);
      if (seen == LOOK_PUT) begin
        none_waits <= memory_read_data == taken;
        one_waits <= memory_read_data == taken_then;
      end
      wrong <= (wrong | (works & !right)) & works;
      seen <= state == READ ? step : LOOK_NONE;
      asked_list <= state == WANTED;
      list_seen <= list_word;
      if (asked_list) begin
        list[RANK'(list_seen << 1)] <= memory_read_data[15:0];
        list[RANK'((list_seen << 1) + 1'b1)] <= memory_read_data[31:16];
      end
      if (seen == LOOK_COUNTS) listed <= memory_read_data[7:0] != 8'd0;
      if (state == READ && step == LOOK_PUT) listed <= 1'b0;
      choice_1 <= take_choice;
      if (choice_1 && listed && list[rank_1] != wanted_1) differs <= 1'b1;
      if (take_choice) begin
        wanted_1 <= 16'(out_data[31:18]);
        {missing_1, stands_in_1} <= out_data[17:16];
        expert_1 <= out_data[ID-1:0];
        rank_1 <= index[RANK-1:0];
      end
      if (seen == LOOK_ACTIVATION) activation <= memory_read_data;
      if (seen == LOOK_RESULT) result <= memory_read_data;
      if (doorbell) {looks, rung} <= '1;
      if (works && state != JOB_WEIGHT) cycles <= cycles + 20'd1;
      write <= here & bus_write;
      if (write && register_at == CONTROL) begin
        // What is under way goes on to its end.
        if (value[0] && state == IDLE) begin
          state <= ARMED;
          outcome <= NOTHING;
          // A request may have come before.
          looks <= 1'b1;
        end else if (!value[0]) begin
          if (state == ARMED) state <= IDLE;
          if (value[1] && !works) outcome <= NOTHING;
        end
      end else if (write && state == IDLE) begin
        case (register_at)
          READY: for (int unsigned i = 0; i < LAYERS; i++) begin
            if (value[15:0] == 16'(i)) ready[i] <= value[31];
          end
          TURN_EXPERTS: experts <= value > E ? '0 : value[ID:0];
          TURN_K: k <= value > K ? '0 : value[RANK:0];
          default: ;
        endcase
      end

      case (state)
        IDLE: ;
        ARMED: if (looks && !(write && register_at == CONTROL) && experts != '0 && k != '0) begin
          state <= READ;
          looks <= doorbell;
          step <= LOOK_PUT;
          cycles <= 20'd1;
        end
        READ, START: begin
          if (state == READ) begin
            step <= step + 4'd1;
            if (step == LOOK_SUM) state <= START;
          end
          if (seen == LOOK_LAYER && none_waits) begin
            // Who has rung without a request for here wants something of the firmware.
            state <= rung ? IDLE : ARMED;
            if (rung) outcome <= HANDED;
            rung <= doorbell;
          end else if (seen == LOOK_LAYER && !(one_waits && layer_right)) begin
            state <= IDLE;
            outcome <= HANDED;
          end else if (wrong) begin
            state <= STOP;
          end else if (state == START && in_ready) begin
            state <= LOGITS;
          end else if (state == START && patience == '1) begin
            state <= IDLE;
            outcome <= HANDED;
          end
          if (seen == LOOK_LAYER) begin
            layer <= memory_read_data[15:0];
            unit_rings <= one_waits && layer_right;
          end
        end
        LOGITS: begin
          list_word <= '0;
          if (logit == last_logit) state <= listed ? WANTED : FIXED;
          // What was looked at last.
          if (wrong) state <= STOP;
        end
        WANTED: begin
          list_word <= list_word + 1'b1;
          if (list_word + 1'b1 == k >> 1) state <= FIXED;
        end
        FIXED: begin
          {index, near, job, job_word} <= '0;
          is_near <= '0;
          differs <= 1'b0;
          if (fixed == 4'd8) state <= HEADER;
        end
        HEADER: if (out_valid) state <= CHOICES_OF;
        CHOICES_OF: if (out_valid) begin
          if (out_data[17]) begin
            near <= near + 1'b1;
            is_near[index[RANK-1:0]] <= 1'b1;
          end
          index <= last_rank ? '0 : index + 1'b1;
          if (last_rank) state <= SETTLE;
        end
        // A key goes through a cell a cycle.
        SETTLE: begin
          if (differs) state <= DROP;
          else if (settle == (RANK + 2)'(K + 1)) state <= LIST;
        end
        LIST: begin
          if (near == '0) begin
            state <= WEIGHT;
          end else begin
            place_of[job_rank] <= job[RANK-1:0];
            job_word <= job_word == 3'd4 ? 3'd0 : job_word + 3'd1;
            if (job_word == 3'd4) begin
              job <= job + 1'b1;
              if (last_job) state <= WEIGHT;
            end
          end
        end
        WEIGHT: if (out_valid) begin
          index <= last_rank ? '0 : index + 1'b1;
          if (last_rank) state <= PUBLISH;
        end
        PUBLISH: begin
          rung <= doorbell;
          state <= JOB_WEIGHT;
        end
        // The host has its answer; units take a job when it has its weight.
        JOB_WEIGHT: begin
          index <= index + 1'b1;
          if (last_rank) begin
            state <= IDLE;
            outcome <= TURN_DONE;
          end
        end
        // The host wants something else: what the unit still has to say is nobody's.
        DROP: if (out_valid && out_last) begin
          state <= IDLE;
          outcome <= HANDED;
        end
        // Of a request that is not for here the unit has begun a layer: it is stopped where it can be.
        default: begin
          if (in_ready) unit_aborts <= 1'b1;
          if (in_ready || patience == '1) begin
            state <= IDLE;
            outcome <= HANDED;
          end
        end
      endcase
    end
  end

  always_ff @(posedge clk) begin
    if (here) begin
      case (bus_address[6:2])
        NAME: here_data <= 32'h7572_7401;
        STATUS: here_data <= {26'd0, outcome, 2'd0, works, state == ARMED};
        LISTED: here_data <= 32'(near);
        CYCLES: here_data <= 32'(cycles);
        TURN_EXPERTS: here_data <= 32'(experts);
        TURN_K: here_data <= 32'(k);
        SEQUENCE: here_data <= sequence_number;
        default: here_data <= '0;
      endcase
    end else begin
      here_data <= '0;
    end
  end
endmodule
